"""Runs of a study on the nodes of a Ray cluster, chosen by ``executor.kind=ray``."""
