"""Local runs and steps import no code or library of stores and clusters."""

from tests.commands import python

NOT_LOCAL = ("assistant_builder.store", "assistant_builder.cluster", "ray", "fsspec", "s3fs")


def test_a_step_process_imports_no_store_or_cluster_code():
    code = (
        "import sys\n"
        "import assistant_builder.cli, evals.__main__, assistant_builder.runner.data_steps\n"
        "import assistant_builder.runner.step_process\n"
        f"print(sorted(sys.modules.keys() & {set(NOT_LOCAL)}))\n"
    )
    assert python("-c", code).stdout.strip() == "[]"
