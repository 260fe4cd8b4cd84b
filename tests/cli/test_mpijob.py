"""`dlp mpijob` as a user types it."""

from pathlib import Path

import yaml

DIGITS = Path(__file__).parents[2] / "briefs" / "digits.yaml"
DEFINITION = Path(__file__).parents[1] / "training" / "mpijob_definition.yaml"


def test_it_prints_documents_for_kubectl(dlp):
    said = dlp("mpijob", DIGITS, "--image", "registry.invalid/dlp:1", "--crd", DEFINITION)
    assert said.code == 0
    config, job = yaml.safe_load_all(said.out)
    assert (config["kind"], job["kind"]) == ("ConfigMap", "MPIJob")
    assert config["data"]["brief.yaml"] == DIGITS.read_text()


def test_it_prints_one_object(dlp):
    said = dlp("mpijob", DIGITS, "--image", "registry.invalid/dlp:1", "--slots", 2, "--json")
    assert said.code == 0
    assert said.json["checked"] is False
    assert said.json["manifests"][1]["spec"]["slotsPerWorker"] == 2


def test_bad_input_is_a_sentence(dlp, tmp_path):
    said = dlp("mpijob", DIGITS, "--image", "i", "--slots", 3)
    assert said.code == 2
    assert "found 2 workers and 3 slots a pod" in said.err
    said = dlp("mpijob", DIGITS, "--image", "i", "--until", "nowhere")
    assert said.code == 2
    older = tmp_path / "older.yaml"
    older.write_text(DEFINITION.read_text().replace("launcherCreationPolicy", "waitForWorkers"))
    said = dlp("mpijob", DIGITS, "--image", "i", "--crd", older)
    assert said.code == 2
    assert "refuses the MPIJob: spec: Additional properties" in " ".join(said.err.split())
