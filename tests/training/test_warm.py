"""Warm starts: a resumed one is the undisturbed one. What is taken over is tested with `models/weights.py`."""

import pytest

from dl_pipelines.models.weights import copy_weights
from tests.training.test_loop import run, same, state, trainer


def test_a_warm_start_that_goes_on_is_bitwise_the_undisturbed_one(make_job):
    first, _ = run(make_job(name="first", training={"epochs": 1}))

    def warm(job, **options):
        made = trainer(job, **options)
        copy_weights(made.recipe.network, first)
        return made

    training = {"epochs": 2, "seed": 5}
    undisturbed, cold, job = (make_job(name=name, training=training) for name in ("undisturbed", "cold", "killed"))
    assert same(first, state(warm(undisturbed)))
    wanted, curves = run(undisturbed, warm(undisturbed))
    assert curves[0].train_loss < run(cold)[1][0].train_loss

    class Stop(Exception):
        pass

    def stop(line):
        if line.get("train_loss"):
            raise Stop

    with pytest.raises(Stop):
        run(job, warm(job, say=stop))
    got, again = run(job, warm(job))
    assert same(wanted, got)
    assert [(line.epoch, line.train_loss) for line in again] == [(line.epoch, line.train_loss) for line in curves]
