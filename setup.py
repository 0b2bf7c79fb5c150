"""Add the example datasets to the wheel as a package of their own; all other settings are in pyproject.toml.

``packages.find`` of pyproject.toml cannot map the top-level folder ``datasets_cards`` into ``assistant_builder``.
"""

from setuptools import find_namespace_packages, setup

EXAMPLES = "assistant_builder.datasets_cards"

setup(
    packages=[*find_namespace_packages(include=["assistant_builder*", "evals*"]), EXAMPLES],
    package_dir={EXAMPLES: "datasets_cards"},
)
