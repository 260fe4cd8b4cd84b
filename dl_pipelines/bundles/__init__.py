"""A compressed model as files for another machine: an edge device, a phone, a controller, a cluster."""
