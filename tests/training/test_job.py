import pytest

from dl_pipelines.training.job import Epoch, Job


def test_a_job_is_read_as_it_was_written(make_job):
    job = make_job("horovod", 2, restarts=1, training={"precision": "bf16", "seed": 7})
    assert Job.read(job.folder / "job.json") == job


def test_a_torn_job_names_its_file(make_job):
    path = make_job().write()
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=rf"{path}: found .* expected JSON"):
        Job.read(path)


def test_an_epoch_is_plain_data():
    line = Epoch(1, 2.0, {"accuracy": 0.5}, 1e-3, 0.1)
    assert Epoch(**line.plain()) == line
