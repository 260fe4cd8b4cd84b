import pytest

from dl_pipelines.inference.precision import missing_units, processor_flags

PROCESSORS = {
    "zen4": "processor : 0\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n",
    "skylake": "processor : 0\nflags\t\t: fpu avx512f\n",
    "sapphire": "flags : amx_bf16 avx512_fp16 amx_tile\nflags : nothing\n",
    "graviton3": "Features\t: fp asimd fphp asimdhp bf16\n",
    "silent": "processor : 0\n",
}


@pytest.fixture
def cpuinfo(tmp_path):
    def write(name):
        path = tmp_path / name
        path.write_text(PROCESSORS[name])
        return path

    return write


@pytest.mark.parametrize(
    ("name", "has"),
    [("zen4", {"bf16"}), ("skylake", set()), ("sapphire", {"bf16", "fp16"}), ("graviton3", {"bf16", "fp16"}),
     ("silent", set())],
)  # fmt: skip
def test_units_are_told_from_what_the_kernel_says(cpuinfo, name, has):
    assert {precision for precision in ("bf16", "fp16") if missing_units(precision, cpuinfo(name)) is None} == has


def test_what_is_missing_is_told(cpuinfo, tmp_path):
    path = cpuinfo("skylake")
    assert missing_units("bf16", path) == (
        f"this processor has no units for bf16 ({path} names none of avx512_bf16, amx_bf16, bf16); it would be "
        "emulated, and its time say nothing"
    )
    assert processor_flags(tmp_path / "none") == frozenset()
    assert missing_units("fp16", tmp_path / "none") is not None
