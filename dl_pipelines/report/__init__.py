"""The implementation report: collect, render, verify."""
