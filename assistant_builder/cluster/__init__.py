"""Runs of studies on a Ray cluster, selected by ``executor.kind=ray``."""
