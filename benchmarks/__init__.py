"""Measurements and simulations of the developers, run from a clone; not part of the package."""
