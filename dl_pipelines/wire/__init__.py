"""What the serving processes share with the library: routing table, assignment, log format. Standard library and numpy only."""
