"""Sensors, schedules and jobs. Decisions live in the library, as pure functions."""
