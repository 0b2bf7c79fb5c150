"""Local runs and steps import no code or library of stores and clusters."""

import json

import pytest

from assistant_builder.config import ExecutorConfig
from assistant_builder.runner.backend import RUNNERS
from assistant_builder.study import Study
from tests.commands import ROOT, python
from tests.synthetic_study import SMALL

STEP = ROOT / "tests" / "cluster" / "fake_step.py"
NOT_LOCAL = ("assistant_builder.store", "assistant_builder.cluster", "ray", "fsspec", "s3fs")
RUN = """
import json, sys
from assistant_builder.runner import invalidation, local_runner
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study

invalidation.step_inputs = lambda study, step, **_: {}
local_runner.step_command = lambda study, step: [sys.executable, sys.argv[2], str(study.folder), step]
study = open_or_create(sys.argv[1], name="local", changes={}, redo=False)
run_study(study)
run_study(open_or_create("local", name=None, changes={}, redo=False))
loaded = [name for name in sys.modules if any(name == each or name.startswith(f"{each}.") for each in sys.argv[3:])]
print(json.dumps({"state": study.state, "loaded": loaded}))
"""


@pytest.mark.long
def test_a_local_run_imports_no_store_or_cluster_code(bundled_models):
    """The run creates a study, plans its memory, waits in the queue, runs all steps and resumes."""
    done = python("-c", RUN, SMALL, STEP, *NOT_LOCAL)
    assert json.loads(done.stdout) == {"state": "succeeded", "loaded": []}
    assert all(Study.open("local").log_file(step).exists() for step in Study.open("local").steps)


def test_a_step_process_imports_no_store_or_cluster_code():
    code = (
        "import sys\n"
        "import assistant_builder.cli, evals.__main__, assistant_builder.runner.data_steps\n"
        "import assistant_builder.runner.step_process\n"
        f"print(sorted(sys.modules.keys() & {set(NOT_LOCAL)}))\n"
    )
    assert python("-c", code).stdout.strip() == "[]"


def test_every_kind_of_executor_has_a_runner():
    assert RUNNERS.keys() == {*ExecutorConfig.model_fields["kind"].annotation.__args__}
