# The few commands of this project; each sets up what it needs first. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format ui bench soak lock clean
BIN := .venv/bin
MINUTES ?= 10
BRIEF ?= briefs/digits.yaml

help: ## List the commands
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Environments, Horovod, Triton; seconds when nothing changed. TORCH_BACKEND=cpu: CPU builds
	@bash scripts/setup.sh

demo: setup ## The whole lifecycle of a brief: verdict and report. BRIEF=briefs/demand.yaml
	@$(BIN)/dlp run $(BRIEF); code=$$?; \
	if [ $$code -eq 3 ]; then echo "A target was missed (exit code 3): the verdict above names it." >&2; fi; \
	exit $$code

test: setup ## The tests, three at a time; ARGS="-n 0 tests/brief" for a few of them in one process
	@$(BIN)/python -m pytest -q -n 3 --dist loadscope --no-loadscope-reorder $(ARGS)

check: setup ## What CI runs beside the tests: ruff, types, import direction
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/basedpyright --level error
	@$(BIN)/lint-imports --no-cache

format: setup ## Put every file into the house format
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

ui: setup ## Dagster's UI on 127.0.0.1, with the schedule and the sensors on
	@$(BIN)/dlp ui

bench: ## Ours against limits and peers (installed first): a JSON object a line, then a table; ARGS=search for one
	@bash scripts/setup.sh bench
	@$(BIN)/python -m benchmarks $(ARGS)

soak: setup ## A long run; MINUTES=10
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

lock: setup ## Resolve requirements*.in anew; ARGS=--upgrade for newer versions
	@bash scripts/lock.sh $(ARGS)

clean: ## Remove the environments and the tools' caches; never the home
	@rm -rf .venv .venv-triton .venv-bench .venv.lock .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.dlp/*' -prune -exec rm -rf {} +
