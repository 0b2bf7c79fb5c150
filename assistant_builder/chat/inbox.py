"""The inbox of a published assistant: what visitors asked and did not get answered, in groups of one meaning.

An answer to a group becomes a correction of the study for each of its wordings, which the next version is trained on; a
group that need not be answered becomes questions to decline. What visitors wrote enters training and index only in this
way.

``python -m assistant_builder.chat.inbox FOLDER`` groups the questions by their sentence embeddings, with PyTorch;
until then, equal questions alone are grouped.
"""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from assistant_builder.chat.feedback import add_correction, read_corrections
from assistant_builder.chat.visitor_log import MAX_QUESTIONS, checked, log_file, opened
from assistant_builder.chat.watch import judge, read_watch
from assistant_builder.data import SPLITS, load_split
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.errors import AssistantBuilderError, DataError
from assistant_builder.i18n import m
from assistant_builder.retrieval.decline import decline_sentence
from assistant_builder.study import Study
from assistant_builder.study.versions import read_versions

Problem = Literal["declined", "voted down", "judged wrong"]
State = Literal["accepted", "rejected", "later"]
Encode = Callable[[Sequence[str]], Any]
"""Texts → their sentence embeddings of unit length, shape ``[n, d]``."""
MOST_WORDINGS = 10
"""Wordings of a group that an answer becomes a correction of, unless others are chosen; the most frequent ones."""
WEEK = 7 * 86_400.0
SIMILAR = 0.65
"""Mean cosine from which two groups of questions are one; ``python -m benchmarks.question_groups`` compares values."""
_LINKED = 5_000
_BATCH = 256
_MOST_WEEKS = 5_000
_KEPT_TEXTS = 20
"""Answers and suggestions of a group that are shown at most."""
_Week = tuple[int, int, int, int, int, int, int, int]
_Waiting = tuple[str, int, int, str, str | None, str | None, str, str, int | None, str | None]
_JUDGED_WRONG = "question.id IN (SELECT id FROM drawn WHERE correct IS 0)"
_COUNTED = "(state NOT IN ('talk', 'clarified') OR vote IS -1)"
_WAITING = (
    "question.wording IS NOT NULL AND question.state IN ('open', 'later', 'clarified') "
    f"AND (declined OR vote = -1 OR {_JUDGED_WRONG}) AND NOT (declined AND question.wording IN "
    "(SELECT settled.wording FROM question AS settled WHERE settled.state = 'rejected' "
    "AND settled.wording IS NOT NULL))"
)
"""Condition of the questions that wait for an answer: what should be declined and was declined does not."""


@dataclass(frozen=True)
class QuestionGroup:
    """Questions of one meaning that the assistant declined, or whose answers were voted down or judged wrong.

    Attributes:
        key: The id of its oldest question, by which it is named.
        wordings: Its questions without repetitions, the most frequent first.
        count: How many of its questions wait.
        problem: What happened to most of them.
        suggestions: What visitors think it should have said.
        answers: What the assistant said, without repetitions.
        ids: Ids of its questions.
        later: Whether it was put aside.
        chosen: Questions of the data that its visitors chose instead, the most frequent first.
    """

    key: str
    wordings: tuple[str, ...]
    count: int
    problem: Problem
    suggestions: tuple[str, ...]
    answers: tuple[str, ...]
    ids: tuple[str, ...]
    later: bool = False
    chosen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Overview:
    """Counts of what was asked within some days.

    A question counts once: as declined, else as voted down, else as judged wrong. A greeting, and a
    question that the assistant asked back about, counts only if its answer was voted down.
    """

    asked: int = 0
    declined: int = 0
    voted_up: int = 0
    voted_down: int = 0
    greetings: int = 0
    judged_wrong: int = 0
    asked_back: int = 0

    @property
    def answered(self) -> float | None:
        """Share of the questions that were neither declined, voted down nor judged wrong; None without any."""
        wrong = self.declined + self.voted_down + self.judged_wrong
        return 1 - wrong / self.asked if self.asked else None


@dataclass(frozen=True)
class Inbox:
    """Everything that is kept of a study's visitors, in counts and groups.

    Attributes:
        weeks: The counts of each week in which something was asked, by how many weeks ago it ended; the oldest first.
        groups: The groups that wait for an answer, the most frequent first, and those for later last.
        has_texts: Whether texts are kept, without which there are no groups.
        ungrouped: Wordings that wait and were not compared with others by meaning.
    """

    weeks: tuple[tuple[int, Overview], ...] = ()
    groups: tuple[QuestionGroup, ...] = ()
    has_texts: bool = False
    ungrouped: int = 0

    @property
    def whole(self) -> Overview:
        """The counts of all weeks."""
        counts = (astuple(counts) for _, counts in self.weeks)
        return Overview(*map(sum, zip(*counts, strict=True)))

    def group(self, key: str) -> QuestionGroup:
        """The group with a question of this id.

        Raises:
            DataError: There is none.
        """
        found = next((group for group in self.groups if key in group.ids), None)
        if found is None:
            raise DataError(
                m("no open question has the id {key!r}", key=key),
                where="inbox",
                remedy=m("Use an id that the inbox lists"),
            )
        return found


def read_inbox(study: Study, now: float) -> Inbox:
    """The inbox of a study; ``now`` is the Unix time from which weeks are counted."""
    path = log_file(study)
    if not path.is_file():
        return Inbox()
    with opened(path) as connection:
        weeks = connection.execute(
            "SELECT CAST((? - time) / ? AS INTEGER) AS week, "
            f"SUM({_COUNTED}), SUM(declined), SUM(vote IS 1), SUM(vote IS -1 AND NOT declined), "
            f"SUM(state IS 'talk'), SUM({_JUDGED_WRONG} AND vote IS NOT -1 AND NOT declined), "
            "SUM(state IS 'clarified') FROM question "
            f"GROUP BY week HAVING SUM({_COUNTED}) > 0 ORDER BY week LIMIT ?",
            (now, WEEK, _MOST_WEEKS),
        ).fetchall()
        weeks = checked(weeks[::-1], _Week)
        (has_texts,) = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM question WHERE wording IS NOT NULL)"
        ).fetchone()
        rows = connection.execute(
            f"SELECT question.id, declined, {_JUDGED_WRONG}, question.question, answer, suggestion, "
            "state, question.wording, meaning, "
            "chosen.question FROM question LEFT JOIN wording ON wording.text = question.wording "
            f"LEFT JOIN chosen ON chosen.id = question.id WHERE {_WAITING} ORDER BY time DESC LIMIT ?",
            (MAX_QUESTIONS,),  # a database of somebody else can have more
        ).fetchall()
        rows = checked(rows[::-1], _Waiting)
    known = _to_decline(study) if any(row[1] for row in rows) else set()
    rows = [row for row in rows if not (row[1] and row[7] in known)]
    groups: dict[Any, list[Any]] = {}
    for row in rows:
        groups.setdefault(row[8] if row[8] is not None else row[7], []).append(row)
    ungrouped = {row[7] for row in rows if row[8] is None}
    found = sorted(
        map(_group, groups.values()), key=lambda group: (group.later, -group.count, group.key)
    )
    return Inbox(
        tuple((week, Overview(*counts)) for week, *counts in weeks),
        tuple(found),
        bool(has_texts),
        len(ungrouped),
    )


def _to_decline(study: Study) -> set[str]:
    """The wordings of the data that should be declined, which do not wait once they were."""
    if not (study.folder / "data" / "split.json").is_file():
        return set()
    try:
        pairs = [pair for split in SPLITS for pair in load_split(study.folder / "data", split)]
    except (AssistantBuilderError, OSError):  # the Data tab reports a damaged split
        return set()
    return {casefold_normalize(pair.question) for pair in pairs if not pair.answerable}


def _group(rows: Sequence[Any]) -> QuestionGroup:
    columns = zip(*rows, strict=True)
    ids, declined, wrong, questions, answers, suggestions, states, wordings, _, chosen = columns
    shown: dict[str, str] = {}
    for wording, question in zip(wordings, questions, strict=True):
        shown.setdefault(wording, question)
    problem: Problem = "judged wrong" if 2 * sum(wrong) >= len(rows) else "voted down"
    if 2 * sum(declined) >= len(rows):
        problem = "declined"
    return QuestionGroup(
        ids[0],
        tuple(shown[wording] for wording, _ in Counter(wordings).most_common()),
        len(rows),
        problem,
        _distinct(suggestions),
        _distinct(answers),
        ids,
        later=all(state == "later" for state in states),
        chosen=tuple(text for text, _ in Counter(filter(None, chosen)).most_common(_KEPT_TEXTS)),
    )


def _distinct(texts: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))[:_KEPT_TEXTS]


def accept(
    study: Study,
    group: QuestionGroup,
    answer: str,
    wordings: Sequence[str] | None = None,
    *,
    corrected: Study | None = None,
) -> int:
    """Make the answer a correction for each wording of a group; returns their number.

    An answer of the group that was drawn to be judged is wrong then.

    Args:
        study: The study with the inbox.
        group: The group.
        answer: Its answer.
        wordings: Those to use; None for the :data:`MOST_WORDINGS` most frequent.
        corrected: The study that gets the corrections: the version that is served; None for ``study``.

    Raises:
        DataError: The answer is empty, or the assistant's own; or no wording is chosen.
    """
    return _decide(study, group, wordings, corrected, "accepted", answer.strip(), answerable=True)


def reject(
    study: Study,
    group: QuestionGroup,
    wordings: Sequence[str] | None = None,
    *,
    corrected: Study | None = None,
) -> int:
    """Make the questions of a group questions to decline; returns their number. See :func:`accept`."""
    target = corrected or study
    answer = decline_sentence(load_split(target.folder / "data", "train"))
    return _decide(study, group, wordings, corrected, "rejected", answer, answerable=False)


def _decide(
    study: Study,
    group: QuestionGroup,
    wordings: Sequence[str] | None,
    corrected: Study | None,
    state: State,
    answer: str,
    *,
    answerable: bool,
) -> int:
    chosen = [
        text.strip() for text in (group.wordings[:MOST_WORDINGS] if wordings is None else wordings)
    ]
    if not any(chosen):
        raise DataError(
            m("no wording of the question is chosen"), where="inbox", remedy=m("Choose one or more")
        )
    cluster = f"visitors {group.key}" if len(chosen) > 1 and answerable else None
    for wording in chosen:
        add_correction(
            corrected or study,
            wording,
            answer,
            wrong=group.answers[0] if group.answers else "",
            cluster=cluster,
            answerable=answerable,
        )
    set_state(study, group, state)
    corrected_keys = {casefold_normalize(text) for text in chosen}
    for drawn in read_watch(study, corrected or study).waiting:
        if casefold_normalize(drawn.question) in corrected_keys and drawn.answer in group.answers:
            judge(study, corrected or study, drawn.id, right=False)  # another answer is right
    return len(chosen)


def chosen_answers(study: Study, group: QuestionGroup) -> dict[str, str]:
    """The questions of the data that visitors chose instead, with their answers; without those of other data.

    Args:
        study: The version that is served.
        group: The group.
    """
    wanted = {casefold_normalize(question): question for question in group.chosen}
    known = {
        casefold_normalize(pair.question): pair.answer
        for pair in (load_split(study.folder / "data", "train") if wanted else ())
        if pair.answerable
    }
    return {question: known[key] for key, question in wanted.items() if key in known}


def known_answers(study: Study) -> list[tuple[str, str]]:
    """The answers of the data, each with a title that has the first question for it: ``(title, answer)``."""
    first: dict[str, str] = {}
    for split in SPLITS:
        for pair in load_split(study.folder / "data", split):
            if pair.answerable:
                first.setdefault(pair.answer, pair.question)
    return [(f"{question} → {answer}", answer) for answer, question in first.items()]


def trained_with(study: Study, questions: Sequence[str]) -> list[str]:
    """Names of the versions of a study whose data or corrections have one of the questions, the first study first."""
    wanted = {casefold_normalize(question) for question in questions}
    found = []
    for name in read_versions(study).names:
        with suppress(AssistantBuilderError):  # a version that was deleted, or has no data yet
            version = Study.open(name)
            texts = [each.question for each in read_corrections(version)]
            if (version.folder / "data" / "split.json").is_file():
                for split in SPLITS:
                    pairs = load_split(version.folder / "data", split)
                    texts += [pair.question for pair in pairs]
            if any(casefold_normalize(text) in wanted for text in texts):
                found.append(name)
    return found


def set_state(study: Study, group: QuestionGroup, state: State) -> None:
    """Record what was decided about a group."""
    with opened(log_file(study)) as connection:
        connection.executemany(
            "UPDATE question SET state = ? WHERE id = ?", [(state, id) for id in group.ids]
        )


def group_by_meaning(study: Study, encode: Encode, embedder: str) -> int:
    """Give the questions that wait the numbers of their meanings; returns how many wordings are new.

    Args:
        study: The study with the inbox.
        encode: The sentence embedder, which gets each wording once.
        embedder: Its name and version; embeddings of another one are made again.
    """
    import numpy as np

    if not log_file(study).is_file():
        return 0
    with opened(log_file(study)) as connection:
        wordings = connection.execute(
            f"SELECT DISTINCT question.wording FROM question LEFT JOIN wording ON wording.text = question.wording "
            f"WHERE {_WAITING} AND embedder IS NOT ? LIMIT ?",
            (embedder, MAX_QUESTIONS),
        ).fetchall()
        new = [text for (text,) in checked(wordings, tuple[str])]
    for batch in (new[start : start + _BATCH] for start in range(0, len(new), _BATCH)):
        vectors = np.asarray(encode(batch), dtype=np.float16)
        with opened(log_file(study)) as connection:  # kept batch by batch, since many take minutes
            entries = [
                (text, embedder, vector.tobytes())
                for text, vector in zip(batch, vectors, strict=True)
            ]
            connection.executemany("INSERT OR REPLACE INTO wording VALUES (?, ?, ?, NULL)", entries)
    with opened(log_file(study)) as connection:
        rows = connection.execute(
            "SELECT text, vector FROM wording WHERE embedder = ? AND text IN "
            f"(SELECT wording FROM question WHERE {_WAITING}) ORDER BY "
            "(SELECT COUNT(*) FROM question WHERE question.wording = text) DESC, rowid LIMIT ?",
            (embedder, MAX_QUESTIONS),
        ).fetchall()
        if not rows or not new:
            return 0
        texts, blobs = zip(*checked(rows, tuple[str, bytes]), strict=True)
        if len({len(blob) for blob in blobs}) > 1:
            raise sqlite3.DatabaseError("the embeddings have several lengths")
    vectors = np.frombuffer(b"".join(blobs), np.float16).reshape(len(texts), -1).astype(np.float32)
    vectors = np.nan_to_num(vectors, posinf=0.0, neginf=0.0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    with opened(log_file(study)) as connection:
        connection.executemany(
            "UPDATE wording SET meaning = ? WHERE text = ?",
            list(zip(map(int, meanings(vectors)), texts, strict=True)),
        )
    return len(new)


def meanings(vectors: Any, similar: float = SIMILAR) -> Any:
    """Number the meanings of questions by average linkage of their embeddings.

    Beyond :data:`_LINKED` questions, whose distances would need too much memory, the others join the group with the
    nearest mean, or have a meaning of their own.

    Args:
        vectors: Sentence embeddings of unit length, shape ``[n, d]``; the most frequent question first.
        similar: Mean cosine from which two groups are one.

    Returns:
        The number of each question's meaning, shape ``[n]``.
    """
    import numpy as np

    # imported here because the import is slow
    from scipy.cluster.hierarchy import fcluster, linkage

    vectors = np.asarray(vectors, dtype=np.float32)
    if len(vectors) < 2:
        return np.zeros(len(vectors), dtype=np.int64)
    linked = vectors[:_LINKED]
    tree = linkage(linked, "average", metric="cosine")
    numbers = fcluster(tree, 1 - similar, "distance").astype(np.int64) - 1
    count = int(numbers.max()) + 1
    means = np.zeros((count, vectors.shape[1]), dtype=np.float32)
    np.add.at(means, numbers, linked)
    means /= np.bincount(numbers, minlength=count)[:, None]
    parts = [numbers]
    for start in range(_LINKED, len(vectors), _LINKED):
        scores = vectors[start : start + _LINKED] @ means.T
        best = scores.argmax(axis=1)
        alone = np.arange(count + start, count + start + len(best))
        parts.append(np.where(scores[np.arange(len(best)), best] >= similar, best, alone))
    return np.concatenate(parts)


def group_with_embedder(study: Study) -> int:
    """:func:`group_by_meaning` with the embedder of the study, which is loaded if something waits."""
    loaded: list[Any] = []

    def encode(texts: Sequence[str]) -> Any:
        from assistant_builder.retrieval.train_embedder import embedder_of_study

        if not loaded:
            loaded.append(embedder_of_study(study))
        return loaded[0].encode(texts)

    from assistant_builder.retrieval.embedder_choice import chosen_embedder

    trained = study.embedder_folder / "model.safetensors"
    version = str(trained.stat().st_mtime_ns) if trained.is_file() else chosen_embedder(study)
    return group_by_meaning(study, encode, version or "bundled")


def main() -> int:
    """Group the questions of the study in the folder of the first argument."""
    from assistant_builder.child_process import configure_libraries

    configure_libraries()
    try:
        group_with_embedder(Study(Path(sys.argv[1])))
    except AssistantBuilderError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
