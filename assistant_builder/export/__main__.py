"""Write one export in a separate process, with its state in ``status.json``; :class:`ExportJob` starts it.

The arguments are study folder, approach, arm, format, type, target, and options of :func:`write_export` as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from assistant_builder.child_process import configure_libraries
from assistant_builder.error_translation import ran_out_of_memory
from assistant_builder.errors import AssistantBuilderError, Cancelled, ResourceError
from assistant_builder.export.export import write_export
from assistant_builder.export.job import ExportJob, JobRecord
from assistant_builder.export_formats import ExportSpec
from assistant_builder.i18n import Text, m
from assistant_builder.redaction import redact_secrets
from assistant_builder.study import Study
from assistant_builder.study.steps import State


def main() -> int:
    """Export; exit code 0 done, 1 failed, 3 cancelled."""
    study, approach, arm, format, type, target, options = sys.argv[1:]
    configure_libraries()
    record = JobRecord.of_process(os.getpid(), Path(target), m("Starting"))
    job = ExportJob(Study(Path(study), approach), ExportSpec(arm, format, type))  # type: ignore[arg-type]

    def report(percent: int, message: Text) -> None:
        nonlocal record
        record = replace(record, percent=percent).saying(message)
        job.write(record)
        if job.cancel_requested:
            raise Cancelled(
                m("the export was cancelled; nothing was written"),
                remedy=m("Start it again at any time"),
            )

    def finish(state: State, error: AssistantBuilderError | None = None) -> None:
        seconds = time.time() - record.started
        failure = error.to_record() if error else None
        job.write(replace(record, state=state, seconds=seconds, error=failure))

    try:
        write_export(job.study, job.spec, Path(target), report=report, **json.loads(options))
    except Cancelled as stop:
        finish("cancelled", stop)
        return 3
    except BaseException as error:
        sys.stderr.write(redact_secrets(traceback.format_exc()))
        finish("failed", _translate(error, job))
        return 1
    record = replace(record, percent=100).saying(m("Done"))
    finish("succeeded")
    return 0


def _translate(error: BaseException, job: ExportJob) -> AssistantBuilderError:
    if ran_out_of_memory(error):
        return ResourceError(
            m("memory ran out"),
            where=f"export {job.spec.name}",
            remedy=m("Close other programs and try again, or export the adapter, which needs less"),
        )
    if isinstance(error, AssistantBuilderError):
        return error
    text, name = str(error), type(error).__name__
    return AssistantBuilderError(
        f"{name}: {text}" if text else name,
        where=f"export {job.spec.name}",
        remedy=m("The log has the details: {log_file}", log_file=job.log_file),
    )


if __name__ == "__main__":
    sys.exit(main())
