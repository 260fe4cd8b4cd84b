"""Typed settings in, plain library objects out."""
