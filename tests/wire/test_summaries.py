import itertools

import numpy as np
import pytest

from dl_pipelines.wire.summaries import BATCHES, SUMMARIES


def test_an_image_against_plain_loops():
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 1)).astype(np.uint8)
    grey = image[..., 0].astype(float)
    found = SUMMARIES["image"](image)
    mass = grey.sum()
    assert found["mean"] == pytest.approx(mass / 30)
    assert found["std"] == pytest.approx((((grey - mass / 30) ** 2).sum() / 30) ** 0.5)
    assert (found["min"], found["max"]) == (grey.min(), grey.max())
    pairs = [abs(grey[y, x + 1] - grey[y, x]) for y in range(6) for x in range(4)]
    assert found["energy_x"] == pytest.approx(sum(pairs) / len(pairs))
    pairs = [abs(grey[y + 1, x] - grey[y, x]) for y in range(5) for x in range(5)]
    assert found["energy_y"] == pytest.approx(sum(pairs) / len(pairs))
    centre = sum(grey[y, x] * (x + 0.5) / 5 for y in range(6) for x in range(5)) / mass
    assert found["centre_x"] == pytest.approx(centre)
    centre = sum(grey[y, x] * (y + 0.5) / 6 for y in range(6) for x in range(5)) / mass
    assert found["centre_y"] == pytest.approx(centre)
    rough = [
        abs(grey[y, x] - (grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1]) / 4)
        for y in range(1, 5)
        for x in range(1, 4)
    ]
    assert found["roughness"] == pytest.approx(sum(rough) / len(rough))


def test_colour_is_averaged():
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 1)).astype(np.uint8)
    assert SUMMARIES["image"](np.repeat(grey, 3, axis=2)) == pytest.approx(SUMMARIES["image"](grey))


def test_a_black_image_has_its_centre_in_the_middle():
    found = SUMMARIES["image"](np.zeros((8, 8, 1), np.uint8))
    assert (found["centre_x"], found["centre_y"], found["mean"]) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize("name", ["image", "tensor"])
def test_a_batch_is_its_rows(name):
    batch = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    together = BATCHES[name](batch)
    for place, row in enumerate(batch):
        assert SUMMARIES[name](row) == pytest.approx({key: values[place] for key, values in together.items()})


def test_tensors_of_any_shape():
    found = SUMMARIES["tensor"](np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
    assert found == pytest.approx({"mean": 3.0, "std": 3.5**0.5, "min": 1.0, "max": 6.0})
    assert SUMMARIES["tensor"](np.zeros((0, 4)))["mean"] == 0.0


def a_frame(rng, history=28, horizon=7):
    """Day, item, target, a known column, an observed one; some targets are missing or zero."""
    frame = np.full((history + horizon, 5), np.nan, np.float32)
    frame[:, 0] = 20000 + np.arange(history + horizon)
    frame[:, 1] = 77
    frame[:history, 2] = rng.poisson(3, history)
    frame[rng.integers(0, history - 1, 4), 2] = np.nan
    frame[:, 3] = rng.gamma(2, size=history + horizon)
    frame[:history, 4] = rng.gamma(2, size=history)
    return frame


@pytest.mark.parametrize("seed", range(3))
def test_a_series_against_plain_loops(seed):
    frame = a_frame(np.random.default_rng(seed)).astype(np.float64)
    found = SUMMARIES["series"](frame.astype(np.float32))
    history = frame[:28, 2]
    known = [float(value) for value in history if value == value]
    level = sum(abs(value) for value in known) / len(known)
    recent = [value for value in history[21:] if value == value]
    mean = sum(known) / len(known)
    steps = [abs(b - a) for a, b in itertools.pairwise(history) if a == a and b == b]
    expected = {
        "recent": sum(recent) / len(recent) / level,
        "variation": (sum((value - mean) ** 2 for value in known) / len(known)) ** 0.5 / level,
        "roughness": sum(steps) / len(steps) / level,
        "missing": sum(value != value for value in history) / 28,
        "zeros": sum(value == 0 for value in known) / 28,
        "absent": 7 / 70,
        "cluster": 20034,
    }
    for name, latest in (("column_3", frame[28:, 3]), ("column_4", frame[21:28, 4])):
        now, then = latest.mean(), frame[:28, int(name[-1])].mean()
        expected[name] = (now - then) / (now + then)
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_series_has_no_scale_and_does_not_drift_with_time():
    frame = a_frame(np.random.default_rng(0))
    later, larger = frame.copy(), frame.copy()
    later[:, 0] += 700
    larger[:, 2:] *= 8
    first = SUMMARIES["series"](frame)
    assert SUMMARIES["series"](larger) == pytest.approx(first, abs=1e-6)
    assert SUMMARIES["series"](later) == pytest.approx({**first, "cluster": first["cluster"] + 700}, abs=1e-9)


def test_what_is_missing_right_before_the_future_counts_as_future():
    frame = a_frame(np.random.default_rng(0))
    frame[26:28, 2] = np.nan
    assert SUMMARIES["series"](frame)["missing"] == pytest.approx(np.isnan(frame[:26, 2]).mean())
    assert SUMMARIES["series"](frame)["cluster"] == 20034


@pytest.mark.parametrize("value", [np.nan, 0.0, np.inf, -3e38])
def test_every_number_of_a_series_is_finite_and_silent(value):
    frames = np.full((3, 10, 6), value, np.float32)
    frames[1, :5, 2] = 1
    frames[2, :, 3:] = np.nan
    for batch in (frames, frames[:, :1], frames[:, :, :3], frames[:0]):
        for name, values in BATCHES["series"](batch).items():
            assert values.shape == (len(batch),) and values.dtype == np.float64, name
            assert np.isfinite(values).all(), name


def test_a_batch_of_series_is_its_rows():
    rng = np.random.default_rng(0)
    batch = np.stack([a_frame(rng) for _ in range(6)])
    batch[2, 20:, 2] = np.nan
    together = BATCHES["series"](batch)
    for place, row in enumerate(batch):
        assert SUMMARIES["series"](row) == pytest.approx({key: values[place] for key, values in together.items()})


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (lambda frame: frame[:28].__setitem__((slice(21, 28), 2), 9), "recent"),
        (lambda frame: frame.__setitem__((slice(None), 3), np.nan), "absent"),
        (lambda frame: frame.__setitem__((slice(28, 35), 3), 100), "column_3"),
        (lambda frame: frame.__setitem__((slice(5, 15), 2), 0), "zeros"),
    ],
)
def test_a_series_moves_with_what_changed(change, moved):
    frame = a_frame(np.random.default_rng(0))
    before = SUMMARIES["series"](frame)[moved]
    change(frame)
    assert SUMMARIES["series"](frame)[moved] > before + 0.05


def test_of_a_large_image_a_grid_is_looked_at():
    image = np.random.default_rng(0).random((130, 96, 3)).astype(np.float32)
    assert SUMMARIES["image"](image) == SUMMARIES["image"](image[::3, ::3])
    whole, part = SUMMARIES["image"](image[:64, :64]), SUMMARIES["image"](image[:64, :64][::2, ::2])
    assert whole["std"] != part["std"]


def test_of_a_large_tensor_every_column_is_looked_at():
    for columns in (8, 30, 64):
        tensor = np.zeros((1, 6000, columns), np.float32)
        for column in range(columns):
            tensor[...] = 0
            tensor[..., column] = 1
            found = BATCHES["tensor"](tensor)
            assert found["max"] == 1 and found["min"] == 0
            assert found["mean"] * columns == pytest.approx(1, rel=0.05)
    small = np.random.default_rng(0).normal(size=(2, 4096))
    assert BATCHES["tensor"](small)["mean"] == pytest.approx(small.mean(axis=1))


@pytest.mark.parametrize("shape", [(0, 8, 8, 1), (2, 1, 1, 1), (1, 2, 2, 3), (1, 1, 9, 1)])
def test_images_too_small_for_a_number_give_none_for_it(shape):
    found = BATCHES["image"](np.ones(shape, np.uint8))
    assert {values.shape for values in found.values()} == {(shape[0],)}
    if shape[0]:
        assert (found["mean"][0], found["std"][0], found["centre_x"][0]) == (1, 0, 0.5)
        assert np.isnan(found["energy_y"][0]) == (shape[1] == 1)


def test_an_image_with_no_light_or_less_has_its_centre_in_the_middle_of_a_batch():
    images = np.zeros((3, 4, 4, 1), np.float32)
    images[1] = -1
    images[2, :, 3] = 2
    found = BATCHES["image"](images)
    assert found["centre_x"].tolist() == [0.5, 0.5, 0.875] and found["centre_y"].tolist() == [0.5, 0.5, 0.5]
