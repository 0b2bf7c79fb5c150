"""Fit the rule by which a grounded assistant declines, on validation questions, before anything is scored.

Each assistant answers the questions of :mod:`assistant_builder.retrieval.validation`. Whether answers are given in the
facts' own words is decided for all arms together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.stats import binom

from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.data import Message, Pair, load_split
from assistant_builder.documents.questions import trained_file
from assistant_builder.retrieval.answering import is_verbatim, reads_conversations
from assistant_builder.retrieval.copying import copy_rule as fit_copy_rule
from assistant_builder.retrieval.decline import (
    ANSWERABLE,
    FILE,
    FIRST_TOKENS,
    OWN_WORDS,
    OWN_WORDS_LEVEL,
    RULE_VERSION,
    DeclineRule,
    RuleFile,
    evidence_of,
    rule_of,
)
from assistant_builder.retrieval.validation import ValidationQuestions
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit
from evals.cells import LoadedCell, Variant, load_cells

if TYPE_CHECKING:
    from assistant_builder.models.chat_template import ChatTokenizer
    from assistant_builder.retrieval.retriever import Found, Retriever


def fit_rules(
    study: Study,
    base: Path,
    prompter: ChatTokenizer,
    retriever: Retriever,
    variants: Sequence[Variant],
    on_progress: Callable[[str], None],
) -> dict[str, DeclineRule | None]:
    """Fit the rule of each trained assistant, unless it was fitted from the same inputs.

    Args:
        study: A trained study of the grounded approach.
        base: Folder of the base model.
        prompter: Its tokenizer.
        retriever: The retriever of the study.
        variants: The assistants as served.
        on_progress: Called with the name of the assistant that is asked.

    Returns:
        Training run → its rule.
    """
    paths = {str(variant.run): study.arm_folder(str(variant.run)) / FILE for variant in variants}
    inputs = {run: _inputs(study, run) for run in paths}
    fitted = {
        run: read_json(path, RuleFile).get("inputs") if path.exists() else None
        for run, path in paths.items()
    }
    missing = [each for each in variants if fitted[str(each.run)] != inputs[str(each.run)]]
    if missing:
        asked = questions_of(study, retriever)
        for cell in load_cells(study, base, missing):
            run = str(Variant(cell.spec, cell.seed).run)
            on_progress(run)
            write_json(paths[run], {"inputs": inputs[run], **_fitted(study, asked, cell, prompter)})
            del cell  # otherwise its memory stays in use while the next base is loaded
    _decide_whose_words(study, list(paths.values()))
    return {run: rule_of(path) for run, path in paths.items()}


def _fitted(
    study: Study, asked: ValidationQuestions, cell: LoadedCell, prompter: ChatTokenizer
) -> dict[str, Any]:
    """The rule of an assistant, and how many of the answers that it shows repeat a fact word for word."""
    from evals.lm_eval_model import reader

    most = answer_limit(study)
    looked_up = [*asked.found, *asked.follow_ups, *asked.respelled]
    count, end = len(asked.found), len(asked.found) + len(asked.follow_ups)
    whole = [
        *(place for place, kind in enumerate(asked.kinds) if kind == ANSWERABLE),
        *range(end, len(looked_up)),
    ]
    rest = sorted(set(range(len(looked_up))) - set(whole))
    texts: dict[int, list[int]] = {}
    certainties: dict[int, list[float]] = {}
    for places, limit in ((whole, most), (rest, min(FIRST_TOKENS, most))):
        answers: dict[int, list[int]] = {}
        scorer = reader(cell.model, prompter, study.config.eval.batch_size)
        scorer.run(
            [_with_draft(looked_up[place], prompter, limit) for place in places],
            max_new_tokens=limit,
            on_scores=lambda scores: None,
            on_answers=answers.update,
        )
        texts |= {places[index]: ids for index, ids in answers.items()}
        certainties |= {places[index]: sure for index, sure in scorer.certainties.items()}
    evidence = []
    for place, hits in enumerate(looked_up):
        beginning = prompter.decode(texts[place][:FIRST_TOKENS])
        evidence.append(evidence_of(hits.evidence, beginning, certainties[place], asked.taught))
    rule = asked.fit(evidence[:count], study.config.retrieval.false_declines, evidence[count:end])
    shown = [place for place in whole if not rule.declines(evidence[place])]
    verbatim = 0
    for place in shown:
        facts = [hit.fact.answer for hit in looked_up[place].sources]
        verbatim += is_verbatim(prompter.decode(texts[place]), facts)
    return {"rule": rule.to_record(), "shown": len(shown), "verbatim": verbatim}


def _with_draft(
    found: Found, prompter: ChatTokenizer, limit: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of a prompt, and the answer of its best fact, which an assistant often repeats.

    What it repeats is read with the prompt and not generated token by token; the answer is the same.
    """
    if found.best is None:
        return prompter.prompt_ids(found.messages), ()
    draft = Message("assistant", found.best.answer)
    turn = prompter.turns(Pair(0, (*found.messages, draft)))[-1]
    return turn.prompt_ids, turn.answer_ids[:limit]


def repeats_facts(verbatim: int, shown: int) -> bool:
    """Whether so many of the shown answers are facts word for word that another answer is a mistake (binomial test)."""
    return shown > 0 and bool(binom.cdf(verbatim, shown, OWN_WORDS) >= OWN_WORDS_LEVEL)


def _decide_whose_words(study: Study, paths: Sequence[Path]) -> None:
    files = {path: read_json(path, RuleFile) for path in paths}
    shown, verbatim = (sum(file[key] for file in files.values()) for key in ("shown", "verbatim"))
    own_words = repeats_facts(verbatim, shown)
    values = "sentence" if trained_file(study).is_file() else "answer"
    if own_words or reads_conversations(study):  # or they come from earlier turns
        values = "anywhere"
    decided = {"own_words": own_words, "values": values}
    for path, file in files.items():
        if file["rule"] != {**file["rule"], **decided}:
            write_json(path, {**file, "rule": {**file["rule"], **decided}})


def copy_rule(study: Study, retriever: Retriever) -> DeclineRule:
    """The rule for copying the answer of the best fact, on the same questions."""
    target = study.config.retrieval.false_declines
    return fit_copy_rule(questions_of(study, retriever), target)


def questions_of(study: Study, retriever: Retriever) -> ValidationQuestions:
    """The questions of a study by which its rules are fitted."""
    training, validation = (
        load_split(study.folder / "data", split) for split in ("train", "validation")
    )
    return ValidationQuestions(training, validation, retriever)


def _inputs(study: Study, run: str) -> dict[str, Any]:
    folder = study.retrieval_folder
    return {
        "adapter": study.arm_summary(run)["adapter_sha256"],
        "validation": file_hash(study.split_file("validation")),
        "retrieval": study.config.retrieval.model_dump(
            mode="json",
            exclude={
                *("sources_in_endpoint", "greeting", "suggestions", "final_index"),
                *("most_wrong", "keep_promise", "if_broken"),
            },
        ),
        "max_new_tokens": answer_limit(study),
        "version": RULE_VERSION,
        "index": {
            path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file()
        },
    }
