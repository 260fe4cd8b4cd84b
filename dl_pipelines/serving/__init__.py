"""The live Triton server: repository, backends, routing, prediction log, client, load test."""
