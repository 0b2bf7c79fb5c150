"""Write the report of an evaluated study once more: blind votes came in after its run, or it has got another name.

Neither is an input of any step, so that a finished study does not look changed.
"""

from __future__ import annotations

import subprocess

from filelock import FileLock, Timeout

from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.jobs.standing import first_changed
from assistant_builder.jobs.steps import command
from assistant_builder.study import Study
from assistant_builder.worker import child_environment


def write_report_again(study: Study) -> None:
    """Run the report's step again, in a process of its own, and wait for it: a few seconds.

    Raises:
        StudyError: The study has not been evaluated, or it is running.
        ChangedInputsError: Its scores were made with other settings than those it has now.
        AssistantBuilderError: The step failed, with its reason.
    """
    if study.step("evaluate").state != "succeeded":
        raise StudyError("the study has not been evaluated", where=f"study {study.name}",
                         remedy=f"Finish it with 'assistant-builder run {study.name}'; that ends with the report")
    first_changed(study, redo=False)
    lock = FileLock(study.folder / ".lock")
    try:
        with lock.acquire(timeout=0), study.log_file("report").open("ab") as log:
            subprocess.run(
                command(study, "report"), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=child_environment(), check=False,
            )
    except Timeout:
        raise StudyError("the study is running", where=f"study {study.name}",
                         remedy="Wait until it is done: it ends with the report") from None
    record = study.step("report")
    if record.state != "succeeded":
        error = record.error or {"what": "its process ended without a word", "remedy": ""}
        raise AssistantBuilderError(error["what"], where="step report", remedy=error["remedy"])
