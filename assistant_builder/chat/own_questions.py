"""Asks the trained assistants the questions of the owner in the background, and writes the report again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from assistant_builder.atomic_io import file_hash
from assistant_builder.chat.ask import default_system_prompt, longest_answer
from assistant_builder.chat.client import WorkerPool
from assistant_builder.data import Message
from assistant_builder.error_record import ErrorRecord
from assistant_builder.errors import AssistantBuilderError, StudyError, error_texts
from assistant_builder.i18n import m
from assistant_builder.inference.chunks import Sampling
from assistant_builder.retrieval.own_questions import read_questions, save_answers, unasked
from assistant_builder.study import Study
from assistant_builder.study.contents import OwnAnswer

Ask = Callable[[str, Sequence[str]], Mapping[str, OwnAnswer]]
"""Question and arms → the answer of each arm."""


def ask_missing(study: Study, ask: Ask, *, copies: bool = False) -> int:
    """Ask what was not asked yet, and keep each answer at once; returns the number of questions.

    A question that is removed meanwhile is asked no more. ``copies``: only copied answers, which load no model.
    """
    asked = 0
    while missing := unasked(study, copies=copies):
        question, arms = missing[0]
        save_answers(study, question, ask(question, arms))
        asked += 1
    return asked


class OwnQuestionAsker:
    """Asks the questions of one study at a time, in a thread, by the worker process of the chat."""

    def __init__(self, pool: WorkerPool, after: Callable[[Study], object]) -> None:
        """``after`` is called when a study has all answers."""
        self._pool, self._after = pool, after
        self._lock = threading.Lock()
        self._asking: Study | None = None
        self._errors: dict[str, ErrorRecord] = {}

    def is_asking(self, study: Study) -> bool:
        """Whether the questions of a study are being asked."""
        return self._asking is not None and self._asking.folder == study.folder

    def error(self, study: Study) -> ErrorRecord | None:
        """Record of the error that ended the last attempt."""
        return self._errors.get(str(study.folder))

    def start(self, study: Study, *, copies: bool = False) -> threading.Thread | None:
        """Begin to ask; None if another study is being asked, or nothing is missing.

        ``copies``: only copied answers.
        """
        view = study.recommended
        with self._lock:
            if self._asking is not None or not unasked(view, copies=copies):
                return None
            self._asking = view
        self._errors.pop(str(study.folder), None)
        thread = threading.Thread(target=self._run, args=(view, copies), daemon=True)
        thread.start()
        return thread

    def _run(self, study: Study, copies: bool) -> None:
        try:
            system = default_system_prompt(study)
            ask_missing(
                study,
                lambda question, arms: self._ask(study, system, question, arms),
                copies=copies,
            )
            self._after(study)
        except AssistantBuilderError as error:
            self._errors[str(study.folder)] = error.to_record()
        finally:
            self._asking = None

    def _ask(
        self, study: Study, system: str, question: str, arms: Sequence[str]
    ) -> dict[str, OwnAnswer]:
        messages = [*([Message("system", system)] if system else []), Message("user", question)]
        sampling = Sampling(longest_answer(study), corrected=False)
        *_, replies = self._pool.worker(study).ask(dict.fromkeys(arms, messages), sampling)
        for reply in replies.values():
            if reply.error is not None:
                raise AssistantBuilderError(**error_texts(reply.error))
            if reply.state not in ("stop", "length"):
                raise StudyError(m("the question was not answered"), where="chat")
        return {
            arm: {"text": reply.text.strip(), "declined": reply.declined}
            for arm, reply in replies.items()
        }


def renew_report(study: Study, write: Callable[[Study], object]) -> bool:
    """Write the report again, with the answers to the owner's questions, unless a run does or will do so.

    Args:
        study: A study.
        write: Writes its report.
    """
    record = study.step("report")
    if record.state != "succeeded" or study.state == "running" or not read_questions(study):
        return False
    try:
        with study.lock():
            write(Study(study.folder))
            outputs = {name: file_hash(study.folder / name) for name in record.outputs}
            study.write_step(replace(record, outputs=outputs))
    except StudyError:  # a run has begun
        return False
    return True
