"""``python -m assistant_builder.export``: write one export in a separate process, with its state in ``status.json``."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from assistant_builder.arms import ARMS
from assistant_builder.child_process import configure_libraries
from assistant_builder.error_translation import ran_out_of_memory
from assistant_builder.errors import AssistantBuilderError, Cancelled, ResourceError
from assistant_builder.export.export import write_export
from assistant_builder.export.job import ExportJob, JobRecord
from assistant_builder.export.verify import DEFAULT_SAMPLE
from assistant_builder.export_formats import EXPORT_FORMATS, ExportSpec
from assistant_builder.i18n import Text, m
from assistant_builder.redaction import redact_secrets
from assistant_builder.study import Study
from assistant_builder.study.steps import State


def main() -> int:
    """Export; exit code 0 done, 1 failed, 3 cancelled."""
    parser = argparse.ArgumentParser(prog="python -m assistant_builder.export", description=__doc__)
    parser.add_argument("--study", type=Path, required=True, help="the study's folder")
    parser.add_argument("--approach", help="the approach of the assistant; default: the main one")
    parser.add_argument("--arm", choices=list(ARMS), required=True)
    parser.add_argument("--format", choices=list(EXPORT_FORMATS), required=True)
    parser.add_argument(
        "--type", default="", help="type of the weights; default: that of the format"
    )
    parser.add_argument("--to", type=Path, required=True, help="the folder to make")
    parser.add_argument("--force", action="store_true", help="replace files in it")
    parser.add_argument("--zip", type=Path, help="an archive to write as well")
    parser.add_argument(
        "--with-data", action="store_true", help="with the index of a grounded assistant"
    )
    parser.add_argument(
        "--importance", action="store_true", help="choose block scales by an importance matrix"
    )
    parser.add_argument(
        "--sample", type=int, default=DEFAULT_SAMPLE, help="held-out items to score again"
    )
    arguments = parser.parse_args()
    configure_libraries()
    record = JobRecord.of_process(os.getpid(), arguments.to, m("Starting"))
    spec = ExportSpec(arguments.arm, arguments.format, arguments.type)
    job = ExportJob(Study(arguments.study, arguments.approach), spec)

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
        write_export(
            job.study,
            job.spec,
            arguments.to,
            force=arguments.force,
            sample=arguments.sample,
            report=report,
            archive=arguments.zip,
            with_data=arguments.with_data,
            importance=arguments.importance,
        )
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
