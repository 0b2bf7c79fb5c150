"""The commands of ``data``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Settings, documented, parse_settings
from assistant_builder.config import DataConfig, StudyConfig, printable
from assistant_builder.errors import DataError
from assistant_builder.i18n import m

if TYPE_CHECKING:
    from assistant_builder.data import Dataset, Findings, Pair
    from assistant_builder.data.types import RowNumbers
    from assistant_builder.data.wordings import WordingCount


@documented()
def check(file: Path, *, settings: Settings = [], as_json: Json = False) -> None:
    """Show which rows of a data file can be used.

    If rows may be too long for the base model, its tokenizer counts their tokens, if it is on this machine.
    The exit code is 0 if a study can start from the file, else 1.

    Args:
        file (FILE): CSV, TSV, JSON, JSONL, XLSX or Parquet.
    """
    from assistant_builder.data import load_pairs
    from assistant_builder.data.wordings import count_wordings
    from assistant_builder.retrieval.embedder_choice import choice_note
    from evals.stats.power import power_sentence, split_power

    study = StudyConfig().with_changes(parse_settings(settings))
    config = study.data
    findings = _check(load_pairs(file, columns=config.columns, system=config.system), study)
    split = _split_record(findings.usable, config)
    power = split_power(split) if split else None
    wordings = count_wordings(split) if split else None
    if as_json:
        more = {"power": power, "wordings": wordings}
        records = {key: value.to_record() if value else None for key, value in more.items()}
        output.print_json({**findings.to_record(), **records})
    else:
        output.print_findings(findings)
        output.echo(f"embedder: {choice_note(study.retrieval.embedder, findings.usable)}")
        if wordings and wordings.occurs_once:
            output.echo(once_line(wordings, file))
        if power:
            output.echo(f"power: {power_sentence(power.to_record())}")
    findings.require_start()


def _check(dataset: Dataset, config: StudyConfig) -> Findings:
    """Check a dataset, with the tokens of its pairs if one of them may be too long."""
    from assistant_builder.data import check_pairs
    from assistant_builder.models.checkpoint_dir import context_length
    from assistant_builder.models.fetch import local_model_folder
    from assistant_builder.models.template_process import LimitedChatTokenizer, TemplateProcess
    from assistant_builder.retrieval.grounding import may_be_longer, row_limit, with_own_fact

    options: dict[str, Any] = {"near_duplicate_threshold": config.data.near_duplicate_threshold}
    folder, grounded = local_model_folder(config.model), config.grounded
    context = context_length(folder) if folder is not None else 0
    limit = row_limit(config.train.max_length, context)
    if folder is None or not any(
        may_be_longer(pair, limit, grounded=grounded) for pair in dataset.pairs
    ):
        return check_pairs(dataset, **options)
    with closing(TemplateProcess(folder)) as process:
        return check_pairs(
            dataset,
            **options,
            tokenizer=LimitedChatTokenizer(process),
            max_length=limit,
            max_pair_tokens=context,
            as_trained=with_own_fact if grounded else None,
        )


def once_line(wordings: WordingCount, file: Path | None) -> str:
    """What a test can show where each answer occurs once, and the command that helps."""
    command = f"assistant-builder data draft {shlex.quote(str(file))} --to drafts.csv"
    helps = f" {wordings.remedy} Drafts to look over: {command}" if wordings.remedy else ""
    return f"note: {wordings.title}. {wordings.meaning}{helps}"


def _split_record(pairs: Sequence[Pair], config: DataConfig) -> dict[str, Any] | None:
    """The record of the split that a study would get; None if there are too few pairs."""
    from assistant_builder.data import split_pairs

    try:
        return split_pairs(pairs, config).to_record()
    except DataError:
        return None


@documented()
def draft(
    file: Path,
    *,
    to: Path,
    number: Annotated[int, typer.Option(min=1, max=10)] = 2,
    url: str = "",
    model: str = "",
    settings: Settings = [],
) -> None:
    """Draft other wordings of questions whose answer occurs once, by the base model or by an endpoint.

    Nothing is used before you accept it: write "yes" into the column "accept" of the good ones, correct them where
    needed, and give the file to 'data add-wordings'.

    Args:
        file (FILE): CSV, TSV, JSON, JSONL, XLSX or Parquet.
        to: CSV file for the drafts.
        number: Wordings of each question.
        url: Base URL of an OpenAI-compatible server, which receives the questions and answers. Its key is read from
            ASSISTANT_BUILDER_DRAFT_KEY, if ASSISTANT_BUILDER_DRAFT_URL is this URL.
        model: Name of the model at that server.
    """
    from assistant_builder.data.wordings import write_drafts
    from assistant_builder.drafting import SMALL_MODEL_NOTE, draft_wordings
    from assistant_builder.models.bundled import BASE_MODEL

    config, pairs, numbers = _usable(file, settings)
    if not url and config.model.base == BASE_MODEL:
        output.note(SMALL_MODEL_NOTE)
    if url:
        output.note(f"this command sends the questions and answers to {printable(url)} (--url)")
    drafts = draft_wordings(pairs, number, model=None if url else config.model, url=url, name=model)
    write_drafts(to, pairs, drafts, numbers)
    output.echo(
        f"{len(drafts)} drafts in {to}. Write yes into the column accept of those to use, then: "
        f"assistant-builder data add-wordings {shlex.quote(str(file))} {shlex.quote(str(to))} --to NEW.jsonl"
    )


@documented()
def add_wordings(
    file: Path,
    wordings: Annotated[Path | None, typer.Argument()] = None,
    *,
    to: Path,
    settings: Settings = [],
) -> None:
    """Write a copy of a data file with other wordings of its questions, each in the cluster of its fact.

    Args:
        file (FILE): The data file.
        wordings (WORDINGS): A file with the columns question and answer, whose answers are those of FILE, or accepted
            drafts. Without it, the columns of FILE that have other wordings.
        to: The new data file (.jsonl).
    """
    from assistant_builder.data import wordings as module

    if to.suffix != ".jsonl":
        raise typer.BadParameter(
            "the new file is JSON Lines: end its name in .jsonl", param_hint="--to"
        )
    config, pairs, numbers = _usable(file, settings)
    if wordings is None:
        unmatched: list[str] = []
        _, matches = module.wordings_in_columns(file, pairs, config.data.columns)
        if not matches:
            raise DataError(
                m("no column has further wordings"),
                where=str(file),
                remedy=m("Give a file with the columns question and answer as WORDINGS"),
            )
    else:
        matches, unmatched = module.match_wordings(pairs, module.read_wordings(wordings), numbers)
    if not matches:
        raise DataError(
            m(
                "no wording was added: {unmatched} match no row of {name}",
                unmatched=len(unmatched),
                name=file.name,
            ),
            where=str(wordings or file),
            remedy=m(
                "Copy the answers from the data file, or accept drafts with yes in the column accept"
            ),
        )
    columns = module.add_wordings(file, matches, to, config.data.columns)
    for question in unmatched:
        output.note(f"no row has the answer of {question!r}")
    keys = " ".join(
        f"--set data.columns.{role}={shlex.quote(name)}" for role, name in columns.items()
    )
    output.echo(
        f"{len(matches)} wordings were added. Start from the new file with 'assistant-builder run {to}"
        f"{f' {keys}' if keys else ''}'; --from STUDY takes over the settings of a study."
    )


def _usable(file: Path, settings: list[str]) -> tuple[StudyConfig, Sequence[Pair], RowNumbers]:
    from assistant_builder.data import check_pairs, load_pairs

    config = StudyConfig().with_changes(parse_settings(settings))
    dataset = load_pairs(file, columns=config.data.columns, system=config.data.system)
    return config, check_pairs(dataset).usable, dataset.numbers
