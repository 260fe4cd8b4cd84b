"""Metrics with intervals, slices, calibration. Nothing is chosen from test rows."""
