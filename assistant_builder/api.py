"""The Python API: ``import assistant_builder as ab`` offers what is here, and the commands call it.

Libraries are imported where they are used: torch with the first answer, pandas with the first table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from assistant_builder.api_types import Answer, Server
from assistant_builder.arms import plain_order, with_arm
from assistant_builder.config import Approach, StudyConfig
from assistant_builder.data import Message
from assistant_builder.documents.questions import (
    PEOPLE,
    DocumentQuestion,
    Questions,
    QuestionState,
)
from assistant_builder.documents.store import Documents
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.i18n import Text, m
from assistant_builder.retrieval.copying import COPY
from assistant_builder.retrieval.decline import Mode
from assistant_builder.runner.backend import Event
from assistant_builder.runner.consent import Consent
from assistant_builder.runner.document_training import can_train, prepare_training, reads_documents
from assistant_builder.study import study as folders
from assistant_builder.study.steps import State
from evals.report.schema import Report

if TYPE_CHECKING:
    import pandas

    from assistant_builder.inference.session import Session
    from evals.model_compare import Judgement


class Study:
    """A study: its settings, steps, report and assistants. :func:`run`, :func:`open` and :func:`studies` return it.

    A notebook shows the first page of its report.
    """

    def __init__(self, study: folders.Study, approach: Approach | None = None) -> None:
        self._study, self._approach = study, approach
        self._sessions: dict[tuple[str, str | None], Session] = {}

    def __repr__(self) -> str:
        return f"<Study {self.name}>"

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _view(self) -> folders.Study:
        """The study as seen through the approach of its report and assistants."""
        return self._study.of_choice(self._approach)

    @property
    def name(self) -> str:
        """Name of the study and of its folder."""
        return self._study.name

    @property
    def folder(self) -> Path:
        """The folder with all files of the study."""
        return self._study.folder

    @property
    def config(self) -> StudyConfig:
        """The settings, as in ``study.yaml``."""
        return self._study.config

    @property
    def state(self) -> State:
        """``queued``, ``running``, ``succeeded``, ``failed``, ``cancelled`` or ``lost``."""
        return self._study.state

    def status(self) -> dict[str, Any]:
        """State, steps and folder: the document of ``assistant-builder status NAME --json``."""
        return self._study.status()

    def run(
        self,
        *,
        redo: bool = False,
        now: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """Train, evaluate and write the report; the arguments and errors are those of :func:`run`."""
        from assistant_builder.runner.display import run_display
        from assistant_builder.runner.run import run_study

        if reads_documents(self._study):
            prepare_training(self._study)
        with run_display() if on_event is None else nullcontext(on_event) as listener:
            run_study(self._study, redo=redo, now=now, on_event=listener, check=check_tasks)

    @property
    def has_pairs(self) -> bool:
        """Whether the study has pairs, which are trained; one of documents alone has none."""
        return self._study.source is not None

    # questions about its documents

    @property
    def has_documents(self) -> bool:
        """Whether the study has documents."""
        return bool(Documents(self._study))

    @property
    def can_train(self) -> bool:
        """Whether there is enough to train on: pairs, or questions about the documents."""
        return can_train(self._study) if reads_documents(self._study) else self.has_pairs

    def questions(self) -> list[DocumentQuestion]:
        """The questions about the documents: drafts, and those that people asked."""
        return Questions(self._study).all()

    def draft_questions(
        self, number: int = 3, *, url: str = "", model: str = "", base: bool = False
    ) -> tuple[list[DocumentQuestion], int]:
        """Draft questions about the documents; nothing uses them before :meth:`decide_questions` or a list does.

        Args:
            number: Questions of a statement at most.
            url: Base URL of an OpenAI-compatible server that drafts; else templates do.
            model: Name of the model at that server.
            base: Whether the base model of the study drafts as well.

        Returns:
            The questions that were added, and how many were drafted.
        """
        from assistant_builder.drafting import draft_questions

        return draft_questions(self._study, number, url=url, name=model, base=base)

    def decide_questions(self, decisions: Mapping[str, QuestionState]) -> int:
        """Decide on drafts by their ``key``: ``accepted``, ``training`` (unseen, never a test) or ``dropped``."""
        return Questions(self._study).decide(decisions)

    def train_unseen_questions(self) -> int:
        """Train on all drafts that wait for a decision; they never test. Returns how many there are."""
        return Questions(self._study).decide_proposed("training")

    def list_questions(self, path: str | PathLike[str]) -> int:
        """Write the drafts that wait for a decision to a CSV file; returns how many there are."""
        return Questions(self._study).write_list(Path(path), Documents(self._study).statements)

    def read_questions(self, path: str | PathLike[str]) -> dict[str, int]:
        """Take over the decisions and edits of a list, or add the questions of people in a data file, which test.

        Returns:
            How many there are of each kind.
        """
        from assistant_builder.drafting import add_people_questions

        decided = Questions(self._study).read_list(Path(path))
        if decided is None:
            return {PEOPLE: len(add_people_questions(self._study, Path(path)))}
        return {str(state): count for state, count in decided.items()}

    # the report

    def report_path(self, format: Literal["html", "md", "json"] = "html") -> Path:
        """The file of the report.

        Raises:
            StudyError: There is no report yet.
        """
        path = self._view.report_file.with_suffix(f".{format}")
        if not path.is_file():
            raise StudyError(
                m("there is no report yet"),
                where=m("{study} {name}", name=self.name),
                remedy=m("Finish the {study} with 'assistant-builder run {name}'", name=self.name),
            )
        return path

    @property
    def report(self) -> Report:
        """The report, typed: ``study.report.verdict.outcome``.

        Raises:
            StudyError: There is no report yet, or it is damaged.
        """
        return Report.load(self.report_path("json"))

    @property
    def conclusion(self) -> list[str]:
        """Lines of text: whether the assistant is good enough, 4-bit or 16-bit, and what to do next."""
        from assistant_builder.quantization import texts_of
        from evals.report.conclusion import conclude
        from evals.report.to_come import to_come_text

        report = self.report
        with texts_of(self.config.model.quant_type):
            return [*filter(None, [to_come_text(report)]), *conclude(report).lines]

    def _repr_html_(self) -> str:
        """The first page of the report; the state of the study before there is one."""
        page = self._view.report_file.with_suffix(".html")
        if not page.is_file():
            return str(Markup("<p>Study <b>{}</b>: {}</p>").format(self.name, self.state))
        first, end, _ = page.read_text(encoding="utf-8").partition("</header>")
        frame = '<iframe srcdoc="{}" sandbox style="width: 100%; height: 40em; border: 0"></iframe>'
        return str(Markup(frame).format(first + end))

    def items_df(self) -> pandas.DataFrame:
        """The held-out questions with the answers: one row for each question and cell.

        Columns: ``item``, ``cell``, ``row`` (of the data file), ``cluster``, ``answerable``, ``question``,
        ``reference``, ``answer``, ``declined``, ``tokens`` (of the reference), ``nll`` (in nats), and a column for
        each metric.
        """
        import pandas

        shared = ("row", "cluster", "answerable", "question", "reference")
        return pandas.DataFrame(
            {
                "item": item["item"],
                "cell": cell,
                **{key: item.get(key) for key in shared},
                "answer": answer,
                "declined": item["declined"].get(cell),
                "tokens": item["tokens"],
                "nll": item["nll"].get(cell),
                **item["metrics"].get(cell, {}),
            }
            for item in self.report.items
            for cell, answer in item["answers"].items()
        )

    def cells_df(self) -> pandas.DataFrame:
        """The cells: one row for each, with the number of items and the mean of each metric; the index is its name."""
        import pandas

        rows = {
            name: cell.model_dump(exclude={"metrics", "seconds"}, exclude_unset=True) | cell.metrics
            for name, cell in self.report.cells.items()
        }
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("cell")

    def contrasts_df(self) -> pandas.DataFrame:
        """The paired differences: one row for each pair of cells and metric, with 95% interval and p-value."""
        import pandas

        return pandas.DataFrame(
            [
                {"name": row.name, **row.model_dump(exclude_unset=True)}
                for row in self.report.contrasts
            ]
        )

    # the assistants

    @property
    def recommended_arm(self) -> str:
        """The arm that the report recommends; without a report, QLoRA or the only arm."""
        return recommended_arm(self._view)

    @property
    def recommends_copies(self) -> bool:
        """Whether the report recommends copied answers, because training is not shown to be better."""
        from evals.report.conclusion import conclude

        try:
            return conclude(self.report).copied is not None
        except StudyError:
            return False

    @property
    def trained(self) -> bool:
        """Whether every arm of the recommended approach is trained."""
        view = self._view
        return all(view.step(f"train-{arm}").state == "succeeded" for arm in view.config.arms)

    def ask(
        self,
        question: str,
        *,
        history: Sequence[Mapping[str, str]] = (),
        mode: Mode | None = None,
        arm: str | None = None,
        look_up: bool = True,
        backend: Literal["local", "llamacpp"] = "local",
        type: str | None = None,
    ) -> Answer:
        """Ask one of the assistants; it stays loaded until :meth:`close`.

        Args:
            question: The question.
            history: The turns before it, the oldest first: ``{"role": "user" | "assistant", "content": …}`` each.
            mode: ``tuned``, or ``copy`` for the answer of the best fact of the data, which needs no training. Default:
                ``copy`` until the assistants are trained, unless an arm is named.
            arm: Who answers, such as ``lora``; by default the arm that the report recommends.
            look_up: Whether a grounded assistant reads the facts that are found for the question.
            backend: ``local`` (PyTorch) or ``llamacpp`` (a GGUF file of the study, which is written if missing).
            type: Type of the GGUF file; by default the smallest that the report calls no worse.

        Raises:
            ConfigError: The question is empty, a turn of the history is not valid, or the study does not train the arm.
            DataError: Copying: the data cannot be used.
            ModelError: The arm is not trained yet or cannot be loaded.
            ResourceError: The arm does not fit into memory.
        """
        mode = mode or ("tuned" if arm or self.trained else "copy")
        arms = None if mode == "copy" else [arm or self.recommended_arm]
        how: Any = {"history": history, "mode": mode}
        (answer,) = self.ask_arms(
            question, arms, look_up=look_up, backend=backend, type=type, **how
        )
        return answer

    def ask_arms(
        self,
        question: str,
        arms: Sequence[str] | None = None,
        *,
        history: Sequence[Mapping[str, str]] = (),
        mode: Mode = "tuned",
        look_up: bool = True,
        backend: str = "local",
        type: str | None = None,
    ) -> list[Answer]:
        """Ask several assistants, by default every arm that the study trains; else as :meth:`ask`."""
        from assistant_builder.chat.ask import ask_arms

        if not question.strip():
            raise ConfigError(m("the question is empty"), remedy=m("Write a question in quotes"))
        turns = _turns(history)
        if mode == "copy":
            if arms:
                raise ConfigError(
                    m("copied answers are those of the data, and not of an arm"),
                    where="--mode copy",
                    remedy=m("Omit the arm, or ask it with --mode tuned"),
                )
            if (COPY, None) not in self._sessions:
                from assistant_builder.inference.copying import CopySession

                self._sessions[COPY, None] = CopySession({COPY: (self._view, COPY)})
            copies = self._sessions[COPY, None]
            records = ask_arms(self._view, question, [COPY], session=copies, history=turns)
            return [Answer(question=question, arm=COPY, **records[COPY])]
        trained = self.config.arms
        for arm in arms or ():
            if arm not in trained:
                raise ConfigError(
                    m(
                        "{study} {name} trains only {trained} and has no {arm} assistant",
                        name=self.name,
                        trained=" and ".join(trained),
                        arm=arm,
                    ),
                    where="--arm",
                    remedy=m(
                        "Ask with --arm {trained}, or train it with 'assistant-builder run {name} --set "
                        "arms={with_arm}'",
                        trained=trained[0],
                        name=self.name,
                        with_arm=",".join(with_arm(trained, arm)),
                    ),
                )
        if (backend, type) not in self._sessions:
            self._sessions[backend, type] = self._session(backend, type)
        session, arms = self._sessions[backend, type], arms or trained
        records = ask_arms(
            self._view, question, arms, look_up=look_up, session=session, history=turns
        )
        return [Answer(question=question, arm=arm, **records[arm]) for arm in arms]

    def _session(self, backend: str, type: str | None) -> Session:
        if backend == "llamacpp":
            from assistant_builder.inference.llamacpp import require_llamacpp
            from assistant_builder.serving.llamacpp import LlamaCppSession

            require_llamacpp()
            return LlamaCppSession({arm: (self._view, arm) for arm in self.config.arms}, type=type)
        from assistant_builder.inference.session import ChatSession

        return ChatSession(self._view, self.config.arms)

    def close(self) -> None:
        """Free the memory of the assistants that :meth:`ask` has loaded."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    def serve(self, arm: str | None = None, *, mode: Mode = "tuned") -> Server:
        """Serve an assistant at an OpenAI-compatible endpoint of this machine: ``with study.serve() as server: …``.

        Args:
            arm: Who answers; by default the arm that the report recommends.
            mode: ``tuned``, or ``copy`` for the answers of the best facts of the data, which need no training.

        Raises:
            ModelError: The arm is not trained yet, or the base model is not available.
        """
        return Server(self._view, COPY if mode == "copy" else arm or self.recommended_arm)


def run(
    source: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
    *,
    site: str | None = None,
    name: str | None = None,
    base: str | None = None,
    like: str | None = None,
    redo: bool = False,
    now: bool = False,
    on_event: Callable[[Event], None] | None = None,
    trust_remote_code: bool = False,
    trust_addresses: Sequence[str] = (),
    **settings: Any,
) -> Study:
    """Create or open a study, and run it: train its arms, evaluate them, write the report. A second call resumes.

    Documents are read into the study, which answers from them at once. It is trained if it has enough questions about
    them, see :meth:`Study.draft_questions`.

    Args:
        source: A data file, a ``study.yaml``, the name of a study, or its URL in a store; or a folder with documents,
            or several of them.
        site: Address of a website, whose pages are read as documents.
        name: Name of the study; by default that of the file.
        base: Base model: a name of the catalog, a hub id or a folder; short for ``model={"base": …}``.
        like: Name of a study whose settings a data file takes over.
        redo: Run the steps whose inputs changed, and all later steps, again.
        now: Start at once, without waiting for other studies.
        on_event: Receives what changes; by default the progress is shown on standard error.
        trust_remote_code: Allow the Python code in the base model's folder or repository. Read that code first.
        trust_addresses: Addresses of a cluster, store or judge, which come from a file, that may be contacted.
        settings: Settings by section, ``train={"epochs": 2}``, or by dotted key, ``**{"train.epochs": 2}``.

    Raises:
        ConfigError: A setting is invalid, ``source`` does not exist, or an address is not allowed.
        DataError: No study can start from the data file.
        ChangedInputsError: The inputs of a finished step changed, and ``redo`` is off.
        StudyError: Another process runs the study, or files of a finished step are damaged.
        Cancelled: The run was cancelled.
        AssistantBuilderError: A step failed.
    """
    from assistant_builder.runner.open_documents import names_documents, open_documents
    from assistant_builder.runner.open_study import open_or_create

    changes = dict(_dotted(settings)) | ({} if base is None else {"model.base": base})
    consent = Consent(trust_remote_code, trust_addresses)
    sources = [source] if isinstance(source, str | PathLike) else source
    named = [str(each) for each in sources]
    if site is not None or names_documents(named):
        opened, _ = open_documents(named, site=site, name=name, changes=changes, before=consent)
        study = Study(opened)
        if reads_documents(opened) and study.can_train and (redo or study.state != "succeeded"):
            study.run(redo=redo, now=now, on_event=on_event)
        return study
    study = Study(
        open_or_create(*named, name=name, like=like, changes=changes, redo=redo, before=consent)
    )
    study.run(redo=redo, now=now, on_event=on_event)
    return study


def open(name: str, *, approach: Approach | None = None, trust_remote_code: bool = False) -> Study:
    """Open a study by its name or title.

    Args:
        name: The name.
        approach: ``grounded`` or ``memory``, for a study with both; by default the one that its report recommends.
        trust_remote_code: Allow the Python code in the base model's folder or repository. Read that code first.

    Raises:
        StudyError: There is no such study.
        ConfigError: The study does not have the approach.
    """
    study = folders.Study.open(name)
    study.of_choice(approach)  # raises for one that it does not have
    Consent(trust_remote_code).allow(study.config)
    return Study(study, approach)


def studies() -> list[Study]:
    """All studies, the most recently changed first."""
    return [Study(study) for study in folders.Study.all()]


def example(name: str | None = None) -> Study:
    """Open the finished example, a small study that is trained and scored already; a second call opens the same study.

    Raises:
        StudyError: Another study has the name, or the folder of studies cannot be written.
    """
    from assistant_builder.study.example import open_example

    return Study(open_example(name))


def compare(a: str | Study, b: str | Study) -> dict[str, Any]:
    """Compare two studies on their common held-out questions, by the primary metric and the margin of the first.

    Returns:
        The document of ``assistant-builder compare A B --json``: ``verdicts``, ``contrasts``, ``differences`` of the
        settings, ``shared_items``, ``sentence`` and ``warnings``.

    Raises:
        EvaluationError: The studies cannot be compared.
    """
    from evals.study_compare import compare_studies

    first, second = (
        folders.Study.open(study) if isinstance(study, str) else study._study for study in (a, b)
    )
    return compare_studies(first, second)


def judge(
    questions: str | PathLike[str],
    *candidates: str | PathLike[str],
    name: str | None = None,
    system: str | None = None,
    on_event: Callable[[Text], None] = lambda text: None,
    **settings: Any,
) -> Judgement:
    """Compare models of any origin on questions; the first is the reference. A second call continues one that stopped.

    Args:
        questions: File of questions and reference answers, in any format of a study.
        candidates: GGUF files, folders, catalog names or hub ids, ``MODEL@URL`` or ``ollama:TAG`` for endpoints (their
            keys in ``ASSISTANT_BUILDER_KEY_A``, ``…_B``), and logs of lm-eval or inspect.
        name: Name of the comparison; by default that of the file and a hash of all inputs.
        system: System prompt for rows without one.
        on_event: Receives what happens.
        settings: Settings of the evaluation: ``eval={"margin": 0.03}``, or ``**{"eval.margin": 0.03}``.

    Returns:
        The comparison, with ``report`` (a document), ``verdicts``, ``outcomes`` and ``sentence``; a notebook shows its
        report.

    Raises:
        ConfigError: A candidate or a setting is invalid.
        DataError: There are fewer than two questions with answers, or a log lacks some.
        ModelError: A file is damaged, or a model cannot be loaded.
        EvaluationError: An endpoint does not answer. What was scored is kept.
    """
    from evals.model_compare import judge as compare_models

    words = [str(each) for each in candidates]
    changes = dict(_dotted(settings))
    return compare_models(
        Path(questions), words, name=name, settings=changes, system=system, tell=on_event
    )


def recommended_arm(study: folders.Study) -> str:
    """The arm that the report recommends; without a report, QLoRA or the only arm."""
    from assistant_builder.export_formats import advice

    report, arms = study.report_file, study.config.arms
    return advice(Report.load(report), arms).adapter if report.is_file() else plain_order(arms)[0]


def check_tasks(study: folders.Study) -> None:
    """Raise an error for lm-eval tasks and GGUF types that cannot run, before hours are spent on training."""
    from assistant_builder.models.gguf_convert import extra_installed
    from assistant_builder.quantization.gguf import require_writer

    scores_files = "formats" in study.steps and study.step("formats").state != "succeeded"
    if scores_files and extra_installed():
        for type in study.config.formats.types:
            require_writer(type, "formats.types")
    tasks = study.config.eval.tasks
    if tasks and study.step("evaluate").state != "succeeded":
        from evals.tasks.extra import ExtraTasks

        ExtraTasks(tasks)


def _turns(history: Sequence[Mapping[str, str]]) -> list[Message]:
    """The turns of a history as messages; raises ConfigError for one that is none."""
    turns = []
    for place, turn in enumerate(history, start=1):
        role, content = turn.get("role"), turn.get("content")
        if role not in ("user", "assistant") or not isinstance(content, str):
            raise ConfigError(
                m("turn {place} is {turn!r}", place=place, turn=dict(turn)),
                where="history",
                remedy=m('Write {{"role": "user" or "assistant", "content": "…"}} for each turn'),
            )
        turns.append(Message(role, content))  # type: ignore[arg-type]
    return turns


def _dotted(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings by dotted key, such as ``train.epochs``."""
    for section, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"{section}.{key}", each) for key, each in value.items())
        else:
            yield section, value
