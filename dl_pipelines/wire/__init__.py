"""Shared by the serving processes and the library: routing table, log format. Standard library and numpy only."""
