"""Jobs of a training, as its own tests make them."""

from tests.training.conftest import make_job  # noqa: F401 - a fixture
