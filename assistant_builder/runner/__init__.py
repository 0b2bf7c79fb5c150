"""Runs of a study on this machine: its steps in order, each in its own process.

A local run imports neither :mod:`assistant_builder.store` nor :mod:`assistant_builder.cluster`.
"""
