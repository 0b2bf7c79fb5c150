"""Runs of a study on this machine: its steps in order, each in a process of its own.

A local run imports neither :mod:`assistant_builder.store` nor :mod:`assistant_builder.cluster`; see
:mod:`assistant_builder.runner.backend`.
"""
