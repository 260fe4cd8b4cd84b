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
