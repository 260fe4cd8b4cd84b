import subprocess
import sys

HEAVY = ["torch", "numpy", "onnx", "onnxruntime", "openvino", "nncf", "pyarrow", "pandas", "scipy"]
MODULES = [
    "dl_pipelines.compression.compress", "dl_pipelines.compression.static_int8",
    "dl_pipelines.compression.dynamic_int8", "dl_pipelines.inference.timing",
]  # fmt: skip


def test_importing_the_room_loads_no_library():
    code = f"import sys, {', '.join(MODULES)}; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
