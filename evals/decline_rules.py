"""Fit the rule by which a grounded assistant declines, on validation questions, before anything is scored.

Every answerable validation question is asked twice: as it is, and with its fact withheld from the index, when it should
be declined. Held-out questions are not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.data import Pair, load_split
from assistant_builder.retrieval.decline import (
    FILE,
    FIRST_TOKENS,
    DeclineRule,
    Evidence,
    Retrieved,
    evidence_of,
    fit,
    rule_of,
)
from assistant_builder.retrieval.grounding import supports
from assistant_builder.retrieval.index import facts_of
from assistant_builder.study import Study
from evals.cells import Variant, load_cells

if TYPE_CHECKING:
    from assistant_builder.models.chat_template import ChatTokenizer
    from assistant_builder.retrieval.retriever import Retriever

MOST_QUESTIONS = 300
"""Answerable validation questions that are used at most; of more, every n-th."""
SENTENCE = "I can't answer that from what I was given."
"""What is said instead of an answer where the data have no answer of that kind."""


def decline_sentence(training: Sequence[Pair]) -> str:
    """The most frequent answer of the training questions that should be declined, else :data:`SENTENCE`."""
    given = Counter(pair.answer for pair in training if not pair.answerable)
    return given.most_common(1)[0][0] if given else SENTENCE


def fit_rules(study: Study, base: Path, prompter: ChatTokenizer, retriever: Retriever, variants: Sequence[Variant],
              on_progress: Callable[[str], None]) -> dict[str, DeclineRule | None]:
    """Fit the rule of each trained assistant, unless it was fitted from the same inputs.

    Args:
        study: A trained study of the grounded approach.
        base: Folder of the base model.
        prompter: Its tokenizer.
        retriever: The retriever of the study.
        variants: The assistants as served.
        on_progress: Called with the name of the assistant that is asked.

    Returns:
        Training run → its rule; ``None`` where validation has too few questions.
    """
    from evals.lm_eval_model import reader

    paths = {str(variant.run): study.arm_folder(str(variant.run)) / FILE for variant in variants}
    inputs = {run: _inputs(study, run) for run in paths}
    fitted = {run: read_json(path)["inputs"] if path.exists() else None for run, path in paths.items()}
    missing = [each for each in variants if fitted[str(each.run)] != inputs[str(each.run)]]
    if missing:
        asked = ValidationQuestions(study, retriever)
        prompts = [prompter.prompt_ids(found.messages) for found in asked.found]
        for cell in load_cells(study, base, missing):
            run = str(Variant(cell.spec, cell.seed).run)
            on_progress(run)
            answers: dict[int, list[int]] = {}
            scorer = reader(cell.model, prompter, study.config.eval.batch_size)
            scorer.run([(prompt, ()) for prompt in prompts], max_new_tokens=study.config.eval.max_new_tokens,
                       on_scores=lambda scores: None, on_answers=answers.update)
            certainties = scorer.certainties
            texts = {index: prompter.decode(ids[:FIRST_TOKENS]) for index, ids in answers.items()}
            rule = asked.fit([evidence_of(found.evidence, texts[index], certainties[index], asked.taught)
                              for index, found in enumerate(asked.found)], study.config.retrieval.false_declines)
            write_json(paths[run], {"inputs": inputs[run], "rule": rule and rule.to_record()})
            del cell
    return {run: rule_of(path) for run, path in paths.items()}


def copy_rule(study: Study, retriever: Retriever) -> DeclineRule | None:
    """The rule for copying the answer of the best fact: by what was found alone, on the same questions."""
    asked = ValidationQuestions(study, retriever)
    return asked.fit([found_alone(found.evidence) for found in asked.found], study.config.retrieval.false_declines)


def found_alone(found: Retrieved) -> Evidence:
    """The evidence where no model answers."""
    return Evidence(**asdict(found), probability=0.0, lowest=0.0, refusal=0.0)


def _inputs(study: Study, run: str) -> dict[str, Any]:
    folder = study.retrieval_folder
    return {"adapter": read_json(study.arm_folder(run) / "summary.json")["adapter_sha256"],
            "validation": file_hash(study.split_file("validation")),
            "retrieval": study.config.retrieval.model_dump(mode="json", exclude={"sources_in_endpoint", "final_index"}),
            "max_new_tokens": study.config.eval.max_new_tokens,
            "index": {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file()}}


class ValidationQuestions:
    """The validation questions of a study, as they are, then the answerable ones with their facts withheld.

    Attributes:
        pairs: The pair of each question.
        found: What was found for it.
        halves: 0 or 1: weights are fitted on one half of the facts, the threshold on the other.
    """

    def __init__(self, study: Study, retriever: Retriever) -> None:
        training, pairs = (load_split(study.folder / "data", split) for split in ("train", "validation"))
        self.sentence = decline_sentence(training)
        self.taught = sorted({pair.answer for pair in training if not pair.answerable})
        known = [pair for pair in pairs if pair.answerable]
        known = known[:: -(-len(known) // MOST_QUESTIONS) or 1]
        unknown = [pair for pair in pairs if not pair.answerable]
        withheld = [{fact.row for fact in retriever.index.facts if supports(fact, facts_of(pair)[-1])}
                    for pair in known]
        self.pairs = (*known, *unknown, *known)
        self.found = retriever.find([pair.messages[:-1] for pair in self.pairs],
                                    exclude=[*([()] * (len(known) + len(unknown))), *withheld])
        self.halves = [crc32((pair.cluster or pair.answer).encode()) % 2 for pair in self.pairs]
        self._answerable = len(known)

    def fit(self, evidence: Sequence[Evidence], target: float) -> DeclineRule | None:
        """The rule, from the evidence of each question in the order of ``found``."""
        count = self._answerable
        return fit(evidence[:count], evidence[count:], (self.halves[:count], self.halves[count:]), target=target,
                   sentence=self.sentence)
