"""Fit the rule by which a grounded assistant declines, on validation questions, before anything is scored.

Every answerable validation question is asked twice: as it is, and with its fact withheld from the index, when it should
be declined. The training questions that should be declined are asked as well, each looked up without its own row; no
adapter was trained on them. Questions to decline are also looked up with an unrelated question before them, as the
second look of a follow-up does. Held-out questions are not used, and whether answers are given in the facts' own words
is decided for all arms together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.data import Pair, load_split
from assistant_builder.retrieval.answering import Look, is_verbatim
from assistant_builder.retrieval.decline import (
    ANSWERABLE,
    FILE,
    FIRST_TOKENS,
    OWN_WORDS,
    TO_DECLINE,
    WITHHELD,
    DeclineRule,
    Evidence,
    RuleFile,
    decline_sentence,
    evidence_of,
    far_from_everything,
    fit,
    found_alone,
    rule_of,
)
from assistant_builder.retrieval.grounding import supporting
from assistant_builder.retrieval.index import Query, facts_of
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit
from evals.cells import LoadedCell, Variant, load_cells

if TYPE_CHECKING:
    from assistant_builder.models.chat_template import ChatTokenizer
    from assistant_builder.retrieval.retriever import Retriever

T = TypeVar("T")
MOST_QUESTIONS, MOST_FOLLOW_UPS = 300, 100
"""Questions of a kind that are used at most; of more, every n-th."""
_VERSION = 3  # of the rule; another one is fitted again


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
        asked = ValidationQuestions(study, retriever)
        for cell in load_cells(study, base, missing):
            run = str(Variant(cell.spec, cell.seed).run)
            on_progress(run)
            write_json(paths[run], {"inputs": inputs[run], **_fitted(study, asked, cell, prompter)})
            del cell  # otherwise its memory stays in use while the next base is loaded
    _decide_own_words(list(paths.values()))
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
            [(prompter.prompt_ids(looked_up[place].messages), ()) for place in places],
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


def _decide_own_words(paths: Sequence[Path]) -> None:
    files = {path: read_json(path, RuleFile) for path in paths}
    shown, verbatim = (sum(file[key] for file in files.values()) for key in ("shown", "verbatim"))
    own_words = bool(shown) and verbatim >= OWN_WORDS * shown
    for path, file in files.items():
        if file["rule"]["own_words"] != own_words:
            write_json(path, {**file, "rule": {**file["rule"], "own_words": own_words}})


def copy_rule(study: Study, retriever: Retriever) -> DeclineRule:
    """The rule for copying the answer of the best fact: by what was found alone, on the same questions."""
    asked = ValidationQuestions(study, retriever)
    return asked.fit(
        [found_alone(found.evidence) for found in asked.found],
        study.config.retrieval.false_declines,
    )


def _inputs(study: Study, run: str) -> dict[str, Any]:
    folder = study.retrieval_folder
    return {
        "adapter": study.arm_summary(run)["adapter_sha256"],
        "validation": file_hash(study.split_file("validation")),
        "retrieval": study.config.retrieval.model_dump(
            mode="json", exclude={"sources_in_endpoint", "final_index"}
        ),
        "max_new_tokens": answer_limit(study),
        "version": _VERSION,
        "index": {
            path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file()
        },
    }


class ValidationQuestions:
    """The questions of a study by which rules are fitted.

    Attributes:
        pairs: The pair of each question.
        kinds: Its kind. A question is answerable if a fact in the index states its answer; one whose answer is not in
            the data should be declined.
        found: What was found for it.
        follow_ups: What was found for questions to decline with an unrelated question before them.
        respelled: What was found for respelled questions, which show how the assistant answers and not when it should.
    """

    def __init__(self, study: Study, retriever: Retriever) -> None:
        training, pairs = (
            load_split(study.folder / "data", split) for split in ("train", "validation")
        )
        respelled = [pair for pair in pairs if pair.respelled is not None and pair.answerable]
        self.respelled = retriever.find([_look(pair) for pair in _some(respelled)])
        taught = [pair for pair in training if not pair.answerable]
        self._retriever = retriever
        self._training = _some([pair for pair in training if pair.answerable])
        self.sentence = decline_sentence(training)
        self.taught = sorted({pair.answer for pair in taught})
        # people ask in words that are farther away than respelled ones
        pairs = tuple(pair for pair in pairs if pair.respelled is None)
        rows = supporting(retriever.index, [facts_of(pair)[-1] for pair in pairs])
        with_rows = list(zip(pairs, rows, strict=True))
        known = _some([(pair, rows) for pair, rows in with_rows if pair.answerable and rows])
        unknown = _some([pair for pair, rows in with_rows if not (pair.answerable and rows)])
        questions: list[tuple[str, Pair, Collection[int]]] = [
            *((ANSWERABLE, pair, ()) for pair, _ in known),
            *((TO_DECLINE, pair, ()) for pair in unknown),
            *((TO_DECLINE, pair, {pair.row}) for pair in _some(taught)),
            *((WITHHELD, pair, rows) for pair, rows in known),
        ]
        self.kinds, self.pairs = [each[0] for each in questions], [each[1] for each in questions]
        self.found = retriever.find(
            [_look(pair) for pair in self.pairs], exclude=[each[2] for each in questions]
        )
        to_decline = _some([each for each in questions if each[0] != ANSWERABLE], MOST_FOLLOW_UPS)
        rng = random.Random("follow-ups")
        self.follow_ups = (
            retriever.find(
                [self._follow_up(pair, rng) for _, pair, _ in to_decline],
                exclude=[each[2] for each in to_decline],
            )
            if self._training
            else []
        )

    def _follow_up(self, pair: Pair, rng: random.Random) -> Look:
        unrelated = [other for other in self._training if other.answer != pair.answer] or [pair]
        own, earlier = (facts_of(each)[-1].question for each in (pair, rng.choice(unrelated)))
        return replace(_look(pair), query=Query(own, earlier))

    def fit(
        self, evidence: Sequence[Evidence], target: float, follow_ups: Sequence[Evidence] = ()
    ) -> DeclineRule:
        """The rule, from the evidence of each question in the order of ``found``, and of ``follow_ups``."""
        facts = [
            pair.cluster or (pair.answer if pair.answerable else pair.messages[-2].content)
            for pair in self.pairs
        ]
        found = fit(
            evidence,
            self.kinds,
            facts,
            target=target,
            sentence=self.sentence,
            follow_ups=follow_ups,
        )
        if found is not None:
            return found
        rows = supporting(self._retriever.index, [facts_of(pair)[-1] for pair in self._training])
        alone = self._retriever.find([_look(pair) for pair in self._training], exclude=rows)
        return far_from_everything(
            [each.evidence.similarity for each in alone], target=target, sentence=self.sentence
        )


def _look(pair: Pair) -> Look:
    return Look.of(pair.messages[:-1])


def _some(questions: Sequence[T], most: int = MOST_QUESTIONS) -> Sequence[T]:
    return questions[:: -(-len(questions) // most) or 1]
