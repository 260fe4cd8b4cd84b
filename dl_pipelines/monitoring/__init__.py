"""Drift of live windows, thresholds with a known false-alarm rate, traffic, alerts."""
