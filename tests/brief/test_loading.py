"""Wrong briefs: each message names file, line, path, what was found, what is allowed, and the closest name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.brief import BriefError
from dl_pipelines.brief.loading import MAX_BYTES

ROOT = Path(__file__).parent.parent.parent

SMALL = """\
project: small
problem:
  task: {name: image_classification, params: {classes: [a, b]}}
data:
  source: digits
"""
"""Five lines that are valid; what a test adds starts on line 6."""

TRAINING = (
    "accumulate, batch_size, checkpoint_steps, class_weights, clip, compile, device, ema, epochs, label_smoothing, "
    "learning_rate, loss, optimizer, patience, precision, schedule, search, seed, warm_epochs, warmup_epochs, "
    "weight_decay"
)
SECTIONS = (
    "architecture, compression, data, distributed, evaluation, lifecycle, monitoring, problem, project, serving, "
    "training"
)
TECHNIQUES = (
    "architecture_search, distillation, dynamic_int8, mixed_precision, nncf_int8, pruning, quantization_aware, "
    "sparsity, static_int8"
)
FAMILIES = (
    "autoencoder, cnn, cnn_lstm, conv_attention, gan, gru, lstm_attention, nhits, patch_transformer, rnn_rows, tcn, vit"
)
METRICS = "accuracy, auc, calibration_error, f1, loss, precision, recall"


def told(text: str) -> str:
    with pytest.raises(BriefError) as caught:
        catalog.read_brief(text, "b.yaml")
    return str(caught.value)


def test_the_small_brief_is_valid():
    assert catalog.read_brief(SMALL, "b.yaml").project == "small"


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("training: {epoch: 3}", f"training.epoch: found 'epoch'; expected one of {TRAINING} (did you mean 'epochs'?)"),
        ("trainin: {}", f"trainin: found 'trainin'; expected one of {SECTIONS} (did you mean 'training'?)"),
        ("training:\n  seed: 1\n\n  epochs: many", None),
        ("training: {epochs: 0}", "training.epochs: found 0; expected greater than or equal to 1"),
        ("training: {epochs: 3.5}", "training.epochs: found 3.5; expected a valid integer, got a number with a "
                                    "fractional part"),
        ("training: 3", "training: found 3; expected a mapping of fields"),
        ("training:", "training: found nothing; expected a mapping of fields"),
        ("training: {learning_rate: .nan}", "training.learning_rate: found nan; expected a finite number"),
        ("training: {optimizer: adamw2}", "training.optimizer: found 'adamw2'; expected one of adamw, adam, sgd, "
                                          "rmsprop, muon (did you mean 'adamw'?)"),
        ("training: {1: 2}", "training[1]: found 1; expected strings"),
        ("lifecycle: {retrain_hour: 24}", "lifecycle.retrain_hour: found 24; expected less than or equal to 23"),
        ("distributed: {communicator: horovid}", "distributed.communicator: found 'horovid'; expected one of horovod, "
                                                 "torch, single (did you mean 'horovod'?)"),
        ("distributed: {communicator: single}", "distributed: expected workers: 1 with communicator: single"),
        ("architecture: {family: cnnn}", f"architecture.family.name: found 'cnnn'; expected one of {FAMILIES} (did you "
                                         "mean 'cnn'?)"),
        ("architecture: {family: {name: cnn, params: {widht: 8}}}", "architecture.family.params.widht: found 'widht'; "
                                                                    "expected one of blocks, depths, dropout, network, "
                                                                    "width, widths (did you mean 'width'?)"),
        ("architecture: {family: {name: cnn, params: {width: 3}}}", "architecture.family.params.width: found 3; "
                                                                    "expected greater than or equal to 4"),
        ("architecture: {family: {params: {}}}", "architecture.family.name: found nothing; expected this field, which "
                                                 "has no default"),
        ("compression: {techniques: [static_int]}", "compression.techniques[0].name: found 'static_int'; expected one "
                                                    f"of {TECHNIQUES} (did you mean 'static_int8'?)"),
        ("compression: {techniques: static_int8}", "compression.techniques: found 'static_int8'; expected all, or a "
                                                   "list of techniques"),
        ("compression: {techniques: [pruning, pruning]}", "compression.techniques: found ['pruning', 'pruning']; "
                                                          "expected each technique once, or with other params"),
        ("compression: {runtimes: []}", "compression.runtimes: found []; expected at least one runtime, each once"),
        ("compression: {threads: 2}", "compression.threads: found 'threads'; expected one of max_loss, objective, "
                                      "runtimes, techniques, timing_rounds"),
        ("compression: {runtimes: [onnx]}", "compression.runtimes[0]: found 'onnx'; expected one of onnxruntime, "
                                            "openvino"),
        ("monitoring: {traffic: replai}", "monitoring.traffic.name: found 'replai'; expected one of clients, replay "
                                          "(did you mean 'replay'?)"),
        ("evaluation: {thresholds: {accurcy: 0.9}}", "evaluation.thresholds.accurcy: found 'accurcy'; expected one of "
                                                     f"{METRICS} (did you mean 'accuracy'?)"),
        ("evaluation: {thresholds: {accuracy: .inf}}", "evaluation.thresholds.accuracy: found inf; expected a finite "
                                                       "number"),
        ("training: {epochs: 1, epochs: 2}", "training.epochs: found it again; expected each field once (first on "
                                             "line 6)"),
        ("project: again", "project: found it again; expected each field once (first on line 1)"),
        ("---\nproject: other", "brief: found text that can't be read (but found another document); expected valid "
                                "YAML"),
        ("\tx: 1", "brief: found text that can't be read (found character '\\t' that cannot start any token); "
                   "expected valid YAML"),
        ("? [a, b]\n: 1", "brief: found text that can't be read (found unhashable key); expected valid YAML"),
    ],
)  # fmt: skip
def test_a_wrong_field(added: str, message: str | None):
    if message is None:
        assert told(SMALL + added) == (
            "b.yaml:9: training.epochs: found 'many'; expected a valid integer, unable to parse string as an integer"
        )
    else:
        assert told(SMALL + added + "\n") == f"b.yaml:6: {message}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("project: small\n", "", "b.yaml: project: found nothing; expected this field, which has no default"),
        ("  source: digits\n", "  timezone: UTC\n", "b.yaml:4: data.source: found nothing; expected this field, which "
                                                    "has no default"),
        ("project: small", "project: Small One", "b.yaml:1: project: found 'Small One'; expected text like "
                                                 "^[a-z][a-z0-9_]{0,39}$"),
        ("project: small", "project: a__b", "b.yaml:1: project: found 'a__b'; expected a project name other than "
                                            "default, all, shared, and without '__'"),
        ("image_classification", "image_clasification", "b.yaml:3: problem.task.name: found 'image_clasification'; "
                                                        "expected one of forecasting, image_classification "
                                                        "(did you mean 'image_classification'?)"),
        ("classes: [a, b]", "classes: [a, a]", "b.yaml:3: problem.task.params.classes: found ['a', 'a']; expected "
                                               "class names that differ"),
        ("classes: [a, b]", "classes: [a, b], channels: 2", "b.yaml:3: problem.task.params.channels: found 2; "
                                                            "expected 1 (grey) or 3 (RGB) channels"),
        ("classes: [a, b]", "classes: [yes, no]", "b.yaml:3: problem.task.params.classes: found [True, False]; "
                                                  "expected class names as text; YAML reads yes, no, on, off as truth "
                                                  "values: quote them"),
        (", params: {classes: [a, b]}", "", "b.yaml:3: problem.task.params.classes: found nothing; expected this "
                                            "field, which has no default"),
        ("source: digits", "source: digit", "b.yaml:5: data.source.name: found 'digit'; expected one of demand, "
                                            "digits, image_folder, series_files, sql, statsmodels_series (did you mean "
                                            "'digits'?)"),
        ("source: digits", "source: {name: digits, params: {first_records: 1500}}",
         "b.yaml:5: data.source.params: expected first_records + live_records at most 1797, the digits there are"),
        ("source: digits", "source: digits\n  augmentation: {offline: [noise, rotate]}",
         "b.yaml:6: data.augmentation.offline[1].name: found 'rotate'; expected one of brightness, crop, flip, jitter, "
         "mixup, noise, rotation, scaling, translation, window_warping (did you mean 'rotation'?)"),
        ("source: digits", "source: digits\n  augmentation:\n    online:\n      - noise\n      - {name: noise, "
         "params: {std: 300}}",
         "b.yaml:9: data.augmentation.online[1].params.std: found 300; expected less than or equal to 128"),
        ("source: digits", "source: digits\n  split: {test: 0.5, validation: 0.5}",
         "b.yaml:6: data.split: expected validation + test below 0.9, so that something is left to train on"),
        ("source: digits", "source: digits\n  timezone: Europe/Berlinn",
         "b.yaml:6: data.timezone: found 'Europe/Berlinn'; expected an IANA time zone such as UTC or Europe/Berlin"),
        ("source: digits", "source: digits\n  start: 2026-02-30",
         "b.yaml:6: data.start: found '2026-02-30'; expected a value that exists (day is out of range for month)"),
        ("source: digits", "source: digits\n  start: soon",
         "b.yaml:6: data.start: found 'soon'; expected a valid date or datetime, input is too short"),
    ],
)  # fmt: skip
def test_a_wrong_frame(old: str, new: str, message: str):
    assert told(SMALL.replace(old, new)) == message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "{metric: accurac, value: 1}",
            "problem.targets[0].metric: found 'accurac'; expected one of accuracy, auc, calibration_error, f1, "
            "latency_p50_ms, latency_p95_ms, latency_p99_ms, loss, precision, recall, size_mb, throughput_rps "
            "(did you mean 'accuracy'?)",
        ),
        (
            "{metric: latency_p95_ms, value: 20, where: compressed}",
            "problem.targets[0].where: found 'compressed'; expected one of served for latency_p95_ms",
        ),
        (
            "{metric: latency_p50_ms, value: 20, where: trained}",
            "problem.targets[0].where: found 'trained'; expected one of compressed, served for latency_p50_ms",
        ),
        (
            "{metric: size_mb, value: 1, slice: 'class:a'}",
            "problem.targets[0].slice: found 'class:a'; expected no slice for a metric of the system",
        ),
        (
            "{metric: accuracy, op: '>', value: 1}",
            "problem.targets[0].op: found '>'; expected one of >=, <= (did you mean '>='?)",
        ),
        ("{metric: accuracy, value: .nan}", "problem.targets[0].value: found nan; expected a finite number"),
        (
            "{metric: accuracy}",
            "problem.targets[0].value: found nothing; expected this field, which has no default",
        ),
        (
            "{metric: accuracy, value: 1, were: served}",
            "problem.targets[0].were: found 'were'; expected one of metric, op, slice, value, where "
            "(did you mean 'where'?)",
        ),
    ],
)
def test_a_wrong_target(target: str, message: str):
    assert told(SMALL.replace("data:", f"  targets:\n    - {target}\ndata:")) == f"b.yaml:5: {message}"


def test_every_problem_is_told_at_once():
    text = (
        SMALL.replace("source: digits", "source: digit")
        .replace("data:", "  targets: [{metric: accurac, value: 1}]\ndata:")
        .replace("small", "P")
        + "training: {epochs: 0, sede: 1}\narchitecture: {family: cn}\nserving: {max_batch: 0}\n"
    )
    lines = told(text).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["b.yaml:1", "project"],
        ["b.yaml:7", "training.epochs"],
        ["b.yaml:7", "training.sede"],
        ["b.yaml:9", "serving.max_batch"],
        ["b.yaml:6", "data.source.name"],
        ["b.yaml:8", "architecture.family.name"],
        ["b.yaml:4", "problem.targets[0].metric"],
    ]


def test_a_missing_section_hides_only_what_depends_on_it():
    assert told("project: small\ntraining: {epochs: 0}\n").splitlines() == [
        "b.yaml: problem: found nothing; expected this field, which has no default",
        "b.yaml: data: found nothing; expected this field, which has no default",
        "b.yaml:2: training.epochs: found 0; expected greater than or equal to 1",
    ]


@pytest.mark.parametrize("secret", ["https://chat.example/hook?token=hunter2", "hunter2", "${hunter2}", 2222])
def test_a_secret_written_out_is_refused_and_not_shown(secret: object):
    message = told(SMALL + yaml.safe_dump({"monitoring": {"webhook": secret}}))
    assert message == (
        "b.yaml:7: monitoring.webhook: found a value written out; expected a reference to an environment variable, "
        "written ${NAME}; secrets are never in a brief"
    )
    assert str(secret) not in message


def test_a_secret_stays_a_reference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOOK", "hunter2")
    brief = catalog.read_brief(SMALL + "monitoring: {webhook: '${HOOK}'}\n", "b.yaml")
    assert brief.monitoring.webhook == "${HOOK}"
    assert "hunter2" not in brief.model_dump_json()


@pytest.mark.parametrize("call", ["object:os.system {}", "object/apply:os.system ['touch made']", "name:os.system ''"])
def test_a_tag_that_would_run_python_is_refused(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    message = told(f"{SMALL}x: !!python/{call}\n")
    tag = f"tag:yaml.org,2002:python/{call.split()[0]}"
    assert message == (
        f"b.yaml:6: brief: found text that can't be read (could not determine a constructor for the tag {tag!r}); "
        "expected valid YAML"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [("", "an empty file"), ("# nothing\n", "an empty file"), ("- a\n", "a list"), ("hello", "a str"), ("3", "a int")],
)
def test_not_a_mapping(text: str, found: str):
    assert told(text) == f"b.yaml: brief: found {found}; expected a mapping that starts with project, problem and data"


@pytest.mark.parametrize("text", ["a: " + "[" * 3_000, "a: &a [*a]"])
def test_a_depth_without_end(text: str):
    assert told(text) == "b.yaml: brief: found too many, or a loop of aliases; expected a few levels of nesting"


def test_aliases_that_multiply():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    message = told("\n".join(levels))
    assert message == "b.yaml: brief: found more, with its aliases; expected at most 100,000 keys and items"


def test_an_anchor_is_fine():
    text = SMALL + "training: &same {seed: 3}\nevaluation: *same\n"
    assert catalog.read_brief(text, "b.yaml").evaluation.seed == 3


def test_an_unfinished_line_is_told_with_its_line():
    message = told(SMALL + "training: {epochs: 1\n")
    assert message.startswith("b.yaml:7: brief: found text that can't be read (expected ',' or '}'")


def test_files_that_are_none(tmp_path: Path):
    def load(path: Path) -> str:
        with pytest.raises(BriefError) as caught:
            catalog.load_brief(path)
        return str(caught.value)

    missing = tmp_path / "missing.yaml"
    assert load(missing) == f"{missing}: brief: found No such file or directory; expected a readable YAML file"
    assert load(tmp_path) == f"{tmp_path}: brief: found Is a directory; expected a readable YAML file"
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"project: caf\xe9\n")
    assert load(latin) == f"{latin}: brief: found byte 12 that is not; expected UTF-8 text"
    empty = tmp_path / "empty.yaml"
    empty.touch()
    assert re.fullmatch(rf"{empty}: brief: found an empty file; expected a mapping .*", load(empty))
    large = tmp_path / "large.yaml"
    large.write_text("#" * (MAX_BYTES + 1))
    assert load(large) == f"{large}: brief: found 1000001 bytes; expected at most 1000000 bytes"
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \x00")
    assert "unacceptable character #x0000" in load(binary)
    assert len(load(binary).splitlines()) == 1


def test_the_readmes_briefs_are_valid_and_as_short_as_it_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    images, series = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for block, lines, metric in ((images, 10, "accuracy >= 0.95"), (series, 15, "wape <= 0.2")):
        assert len(block.splitlines()) <= lines
        brief = catalog.read_brief(block, "README.md")
        assert [target.name for target in brief.problem.targets] == [
            f"{metric} (served)",
            "latency_p95_ms <= 20 (served)",
        ]


@pytest.mark.parametrize("path", sorted((ROOT / "briefs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_example_is_valid_and_survives_a_snapshot(path: Path):
    brief = catalog.load_brief(path)
    again = catalog.read_brief(yaml.safe_dump(brief.model_dump(mode="json")), "snapshot")
    assert again == brief
