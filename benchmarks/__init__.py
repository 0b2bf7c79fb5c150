"""Benchmarks and simulations for developers, run from a clone; not part of the package."""
