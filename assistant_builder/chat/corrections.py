"""Answers that the user corrected: ``corrections.jsonl`` of a study, and a new study's data made with them.

The new study trains on the old one's training pairs and the corrections, and keeps its held-out questions, but for
those that a correction gives away: the two can then be compared on questions that neither was told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from assistant_builder.config import parse_config
from assistant_builder.data import SPLITS, Message, Pair, SplitName, load_split
from assistant_builder.data.appending import append_pairs
from assistant_builder.data.leaks import find_leaks
from assistant_builder.data.reading import load_rows
from assistant_builder.data.rewriting import write_rows
from assistant_builder.data.similarity import normalised
from assistant_builder.errors import DataError, StudyError
from assistant_builder.files import append_jsonl, read_jsonl, write_json, write_jsonl
from assistant_builder.study import Study

FEWEST_HELDOUT = 2


@dataclass(frozen=True)
class Correction:
    """A question with a better answer, as a line of ``corrections.jsonl``.

    Attributes:
        time: When, ISO 8601 in UTC; it also tells one correction from another.
        question: As it will be trained on.
        answer: The better answer.
        wrong: What an assistant had said.
        arm: Which one.
    """

    time: str
    question: str
    answer: str
    wrong: str = ""
    arm: str = ""


@dataclass(frozen=True)
class Plan:
    """What becomes of the corrections in a new study.

    Attributes:
        trained: Corrections that are trained on.
        left_out: Corrections left out of training, since their question stands in the held-out set.
        dropped: Rows of held-out questions that leave the test, since a correction gives them away.
        replaced: Rows of the old training and validation data whose answer a correction replaces.
    """

    trained: tuple[Correction, ...]
    left_out: tuple[Correction, ...] = ()
    dropped: tuple[int, ...] = ()
    replaced: tuple[int, ...] = ()


def corrections_file(study: Study) -> Path:
    """``corrections.jsonl``."""
    return study.folder / "corrections.jsonl"


def read_corrections(study: Study) -> list[Correction]:
    """Every correction, oldest first.

    Raises:
        StudyError: The file is damaged.
    """
    try:
        return [Correction(**record) for record in read_jsonl(corrections_file(study))]
    except TypeError as error:
        raise StudyError("a correction is of another version or damaged", where=str(corrections_file(study)),
                         remedy="Mend or remove that line") from error


def add_correction(study: Study, question: str, answer: str, *, wrong: str = "", arm: str = "") -> Correction:
    """Append a correction; one of the same question takes the place of the earlier one.

    Raises:
        DataError: Question or answer is empty, or the answer is the one that was to be corrected.
    """
    question, answer = question.strip(), answer.strip()
    empty = [name for name, text in (("question", question), ("better answer", answer)) if not text]
    if empty:
        raise DataError(f"the {' and the '.join(empty)} {'are' if len(empty) > 1 else 'is'} empty",
                        where="correction", remedy="Write what the assistant should have said")
    if answer == wrong.strip():
        raise DataError("the better answer is the one that the assistant gave", where="correction",
                        remedy="Write what it should have said instead")
    earlier = [found for found in read_corrections(study) if normalised(found.question) != normalised(question)]
    made = Correction(datetime.now(UTC).isoformat(timespec="microseconds"), question, answer, wrong.strip(), arm)
    if len(earlier) == len(read_corrections(study)):
        append_jsonl(corrections_file(study), asdict(made))
    else:
        write_jsonl(corrections_file(study), map(asdict, (*earlier, made)))
    return made


def remove_correction(study: Study, time: str) -> None:
    """Forget the correction made at ``time``."""
    kept = [found for found in read_corrections(study) if found.time != time]
    write_jsonl(corrections_file(study), map(asdict, kept))


def heldout_like(study: Study, questions: Sequence[str]) -> dict[int, list[int]]:
    """Which questions stand in the held-out set, by the rule that finds leaks when data is split.

    Args:
        study: A study with its data split.
        questions: What is asked about.

    Returns:
        Place of a question → rows of the held-out pairs that repeat it, exactly or nearly.
    """
    if not questions:
        return {}
    heldout = load_split(study.folder / "data", "heldout")
    threshold = study.config.data.near_duplicate_threshold
    found: dict[int, list[int]] = {}
    for place, question in enumerate(questions):
        asked = Pair(0, (Message("user", question), Message("assistant", "")))
        rows = [leak.heldout_row for leak in find_leaks(heldout, [asked], [], threshold)]
        if rows:
            found[place] = rows
    return found


def plan_retraining(study: Study, corrections: Sequence[Correction], *, drop_heldout: bool) -> Plan:
    """Decide what is trained on and what leaves the test, so that no held-out question is given away.

    Args:
        study: The study that was corrected.
        corrections: Its corrections.
        drop_heldout: Whether a held-out question that was corrected leaves the test and is trained on; otherwise it
            stays and its correction is not trained on.

    Raises:
        DataError: Nothing is left to train on anew, or too few questions to test with.
    """
    leaking = heldout_like(study, [found.question for found in corrections])
    trained = [found for place, found in enumerate(corrections) if drop_heldout or place not in leaking]
    left_out = [found for place, found in enumerate(corrections) if not drop_heldout and place in leaking]
    dropped = sorted({row for rows in leaking.values() for row in rows}) if drop_heldout else []
    if not trained:
        raise DataError(
            "no correction is left to train on: all of them answer held-out questions" if left_out
            else "there is no correction yet", where=f"study {study.name}",
            remedy="Take their questions out of the test instead" if left_out else "Correct an answer first",
        )
    remaining = len(load_split(study.folder / "data", "heldout")) - len(dropped)
    if remaining < FEWEST_HELDOUT:
        raise DataError(
            f"only {remaining} held-out questions would be left to test with", where=f"study {study.name}",
            remedy="Keep the corrected questions in the test, and do not train on them",
        )
    answered = {normalised(found.question) for found in trained}
    replaced = [
        pair.row for split in SPLITS if split != "heldout" for pair in load_split(study.folder / "data", split)
        if pair.turns == 1 and normalised(pair.question) in answered
    ]
    return Plan(tuple(trained), tuple(left_out), tuple(dropped), tuple(replaced))


def retrained_study(study: Study, plan: Plan, name: str) -> Study:
    """Make the new study: the same settings, the same split, and the corrections among the training pairs.

    Args:
        study: The study that was corrected.
        plan: What :func:`plan_retraining` decided.
        name: The new study's name.

    Raises:
        ConfigError: The name cannot name a study.
        StudyError: There is a study of that name, or the old one has lost its data file.
    """
    source, config = study.source, study.config
    if source is None:
        raise StudyError("the study has lost its data file", where=str(study.folder / "data"),
                         remedy="Start a new study from the file")
    gone = {*plan.dropped, *plan.replaced}
    splits: dict[int, SplitName] = {
        pair.row: split for split in SPLITS for pair in load_split(study.folder / "data", split) if pair.row not in gone
    }
    with tempfile.TemporaryDirectory(prefix="assistant-builder-") as scratch:
        kept, whole = Path(scratch) / "kept.jsonl", Path(scratch) / "corrected.jsonl"
        columns = _write_kept(source, config.data.columns, splits, kept)
        mapping = append_pairs(
            kept, [(found.question, found.answer) for found in plan.trained], whole, columns, splits=splits
        )
        tree = config.model_dump(mode="json")
        tree["name"] = name.strip()
        tree["data"] |= {
            "source": whole.name, "columns": mapping,
            "max_train": None, "max_heldout": None,  # the split is already the sampled one
            "remove_leaks": "always",  # a question given away in other words is found, and left out, in the run
        }
        made = Study.create(parse_config(tree, where="settings"), whole)
        write_json(made.folder / "made_from.json", {"study": study.name})
        made.keep_template_date(like=study)
        return made


def _write_kept(source: Path, columns: Mapping[str, str], rows: Iterable[int], target: Path) -> dict[str, str]:
    """Write the rows that the old study used, under their numbers; returns the columns to read them with."""
    table, roles = load_rows(source, columns)
    wanted = set(rows)
    write_rows([row for row in table.rows if row.row in wanted], target)
    # Named one by one, for rows left out may have been what told a column's role.
    return {**columns, **{role: name for role, name in roles.columns.items() if name}}
