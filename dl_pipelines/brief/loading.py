"""From YAML to a validated Brief: every problem at once, each with its line, field, what was found and is allowed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from dl_pipelines.brief.errors import BriefError, Problem, closest
from dl_pipelines.brief.registry import Kind, Named, UnknownName
from dl_pipelines.brief.sections import Brief

Kinds = Mapping[str, Kind]
Check = Callable[[Brief], Iterable[Problem]]
Path_ = tuple[str | int, ...]
Place = tuple[Path_, int, yaml.Node]

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
"""Keys and items of a brief with its aliases written out: a small file can name billions."""


def load_brief(path: Path, kinds: Kinds, checks: Iterable[Check] = ()) -> Brief:
    """Read a brief from a file. Raises BriefError with every problem found."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BriefError(str(path), [Problem("", "a readable YAML file", found=reason)]) from error
    if len(raw) > MAX_BYTES:
        raise BriefError(str(path), [Problem("", f"at most {MAX_BYTES} bytes", found=f"{len(raw)} bytes")])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BriefError(str(path), [Problem("", "UTF-8 text", found=f"byte {error.start} that is not")]) from error
    return read_brief(text, str(path), kinds, checks)


def read_brief(text: str, source: str, kinds: Kinds, checks: Iterable[Check] = ()) -> Brief:
    """Parse and validate YAML `text`; `source` is how errors call it. Raises BriefError."""
    data, lines = _parse(text, source)
    return brief_from(data, source, kinds, checks, lines)


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[Path_, int]]:
    """Plain data and the line of each key and item. Raises BriefError."""
    places: list[Place] = []
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        places = list(islice(_places(node), MAX_NODES + 1)) if node is not None else []
        if len(places) > MAX_NODES:
            raise BriefError(source, [Problem("", f"at most {MAX_NODES:,} keys and items", "more, with its aliases")])
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BriefError(source, [Problem("", "valid YAML", f"text that can't be read ({what})", line)]) from error
    except RecursionError as error:
        raise BriefError(source, [Problem("", "a few levels of nesting", "too many, or a loop of aliases")]) from error
    except BriefError:
        raise
    except ValueError as error:
        raise BriefError(source, [_unreadable(places, error)]) from error
    if not isinstance(data, dict):
        what = "an empty file" if data is None else f"a {type(data).__name__}"
        raise BriefError(source, [Problem("", "a mapping that starts with project, problem and data", what)])
    twice = list(_repeated(node)) if node is not None else []
    if twice:
        raise BriefError(source, twice)
    return data, {path: line for path, line, _ in places}


def brief_from(
    data: Mapping[str, Any],
    source: str,
    kinds: Kinds,
    checks: Iterable[Check] = (),
    lines: Mapping[Path_, int] | None = None,
) -> Brief:
    """Validate plain data: the frame, every `{name, params}`, `checks`. Raises BriefError with what all of them say."""
    data = _completed(dict(data), kinds)
    lines = lines or {}
    try:
        brief = Brief.model_validate(data)
        problems = []
    except ValidationError as error:
        problems = [_problem(item, lines, Brief) for item in error.errors()]
        brief = _rest(data, [_loc(item) for item in error.errors()])
        if brief is None:
            raise BriefError(source, problems) from error
    named = list(_check_named(brief, kinds, lines))
    problems += named
    if not any(problem.path.startswith("problem.task") for problem in named):
        problems += [_located(problem, lines) for check in checks for problem in check(brief)]
    if problems:
        raise BriefError(source, problems)
    return brief


def _completed(data: dict[str, Any], kinds: Kinds) -> dict[str, Any]:
    """The data with the task's own family where it names none; data that is wrong is left for its problems."""
    problem, architecture = data.get("problem"), data.get("architecture", {})
    task = problem.get("task") if isinstance(problem, dict) else None
    name = task.get("name") if isinstance(task, dict) else task
    if "task" not in kinds or not isinstance(architecture, dict) or "family" in architecture:
        return data
    if not isinstance(name, str) or name not in kinds["task"].names:
        return data
    return {**data, "architecture": {**architecture, "family": kinds["task"].load(name).family}}


def _rest(data: Mapping[str, Any], wrong: Iterable[Path_]) -> Brief | None:
    """The brief without its wrong fields, whose names can then be checked too; None when it can't do without them."""
    rest = copy.deepcopy(dict(data))
    for loc in wrong:
        # A list goes as a whole: without one item the others would be told at other positions.
        path = list(takewhile(lambda part: isinstance(part, str), loc))
        here: Any = rest
        for part in path[:-1]:
            here = here.get(part) if isinstance(here, dict) else None
        if isinstance(here, dict) and path:
            here.pop(path[-1], None)
    rest.setdefault("project", "unnamed")
    try:
        return Brief.model_validate(rest)
    except ValidationError:
        return None


def _check_named(brief: Brief, kinds: Kinds, lines: Mapping[Path_, int]) -> Iterator[Problem]:
    for path, ref in _named(brief, ()):
        kind = kinds.get(getattr(ref, "kind", ""))
        assert kind is not None, f"no registry for {type(ref).__name__}"
        try:
            model = kind.params_model(ref.name)
        except UnknownName as error:
            yield Problem(
                _dotted((*path, "name")),
                f"one of {', '.join(error.known)}",
                found=repr(ref.name),
                line=_line((*path, "name"), lines),
                closest=error.near,
            )
            continue
        try:
            params = model.model_validate(ref.params)
        except ValidationError as error:
            for item in error.errors():
                yield _problem({**item, "loc": (*path, "params", *item["loc"])}, lines, model, (*path, "params"))
        else:
            yield from _check_nested(params, (*path, "params"), kinds, lines)


def _check_nested(params: BaseModel, path: Path_, kinds: Kinds, lines: Mapping[Path_, int]) -> Iterator[Problem]:
    for inner, ref in _named(params, path):
        kind = kinds.get(getattr(ref, "kind", ""))
        if kind is None:
            continue
        try:
            kind.params_model(ref.name).model_validate(ref.params)
        except UnknownName as error:
            yield Problem(
                _dotted((*inner, "name")),
                f"one of {', '.join(error.known)}",
                repr(ref.name),
                _line(inner, lines),
                error.near,
            )
        except ValidationError as error:
            model = kind.params_model(ref.name)
            for item in error.errors():
                yield _problem({**item, "loc": (*inner, "params", *item["loc"])}, lines, model, (*inner, "params"))


def _named(value: Any, path: Path_) -> Iterator[tuple[Path_, Named]]:
    if isinstance(value, Named):
        yield path, value
    elif isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield from _named(getattr(value, field), (*path, field))
    elif isinstance(value, tuple | list):
        for position, item in enumerate(value):
            yield from _named(item, (*path, position))


def _problem(item: Any, lines: Mapping[Path_, int], model: type[BaseModel], prefix: Path_ = ()) -> Problem:
    loc = _loc(item)
    path, kind, line = _dotted(loc), item["type"], _line(loc, lines)
    if kind == "extra_forbidden":
        allowed = _fields(model, loc[len(prefix) : -1])
        return Problem(
            path,
            f"one of {', '.join(allowed)}" if allowed else "no such field",
            repr(loc[-1]),
            line,
            closest(str(loc[-1]), allowed),
        )
    if kind == "missing":
        return Problem(path, "this field, which has no default", "nothing", line)
    if kind == "secret":
        return Problem(path, item["msg"], "a value written out", line)
    if kind in ("model_type", "dict_type"):
        return Problem(path, "a mapping of fields", "nothing" if item["input"] is None else repr(item["input"]), line)
    if kind == "string_pattern_mismatch":
        return Problem(path, f"text like {item['ctx']['pattern']}", repr(item["input"]), line)
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        return Problem(
            path, f"one of {', '.join(allowed)}", repr(item["input"]), line, closest(str(item["input"]), allowed)
        )
    expected = re.sub(r"^(Value error, |Input should be |String should |Keys should be )", "", item["msg"])
    found = repr(item["input"]) if not isinstance(item["input"], dict | BaseModel) else None
    return Problem(path, expected, found, line)


def _loc(item: Any) -> Path_:
    """Where a problem is; which form of a field was meant (an empty tag) is no part of it."""
    return tuple(part for part in item["loc"] if part != "")


def _fields(model: type[BaseModel], path: Path_) -> list[str]:
    """Field names of the model that sits at `path` below `model`."""
    current: type[BaseModel] = model
    for part in path:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        current = inner
    return sorted(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in found if model), None)


def _located(problem: Problem, lines: Mapping[Path_, int]) -> Problem:
    if problem.line is not None:
        return problem
    # As text: a key may hold dots itself, as those of a search space do.
    places, path = {_dotted(loc): line for loc, line in lines.items()}, problem.path
    while path and path not in places:
        path = re.sub(r"(^|\.|\[)[^.\[]*$", "", path)
    return Problem(problem.path, problem.expected, problem.found, places.get(path), problem.closest)


def _line(loc: Path_, lines: Mapping[Path_, int]) -> int | None:
    """The line of `loc`, or of its nearest parent that is in the file."""
    while loc:
        if loc in lines:
            return lines[loc]
        loc = loc[:-1]
    return None


def _dotted(loc: Path_) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _places(node: yaml.Node, path: Path_ = ()) -> Iterator[Place]:
    """Path, line and value of each key and item below `node`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            yield here, key.start_mark.line + 1, value
            yield from _places(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield (*path, position), value.start_mark.line + 1, value
            yield from _places(value, (*path, position))


def _unreadable(places: Iterable[Place], error: ValueError) -> Problem:
    """The value that only looks like one (the date 2026-02-30): YAML's own reader says neither where nor which."""
    for path, line, value in places:
        if isinstance(value, yaml.ScalarNode):
            try:
                yaml.SafeLoader("").construct_object(value)
            except ValueError:
                return Problem(_dotted(path), f"a value that exists ({error})", repr(value.value), line)
    return Problem("", "values that YAML can read", str(error))


def _repeated(node: yaml.Node, path: Path_ = ()) -> Iterator[Problem]:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                yield Problem(
                    _dotted((*path, key.value)), f"each field once (first on line {seen[key.value]})", "it again", line
                )
            seen[key.value] = line
            yield from _repeated(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield from _repeated(value, (*path, position))
