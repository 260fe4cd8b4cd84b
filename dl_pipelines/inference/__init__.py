"""Export to ONNX, parity, runtimes, timing of one model on this machine."""
