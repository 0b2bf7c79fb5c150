"""Fit the rule by which a grounded assistant declines, on validation questions, before anything is scored.

Every answerable validation question is asked twice: as it is, and with its fact withheld from the index, when it should
be declined. The training questions that should be declined are asked as well, each looked up without its own row; no
adapter was trained on them. Held-out questions are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.data import Pair, load_split
from assistant_builder.retrieval.decline import (
    ANSWERABLE,
    FILE,
    FIRST_TOKENS,
    TO_DECLINE,
    WITHHELD,
    DeclineRule,
    Evidence,
    decline_sentence,
    evidence_of,
    fit,
    found_alone,
    rule_of,
    without_answerable,
)
from assistant_builder.retrieval.grounding import supporting
from assistant_builder.retrieval.index import facts_of
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit
from evals.cells import Variant, load_cells

if TYPE_CHECKING:
    from assistant_builder.models.chat_template import ChatTokenizer
    from assistant_builder.retrieval.retriever import Retriever

T = TypeVar("T")
MOST_QUESTIONS = 300
"""Questions of a kind that are used at most; of more, every n-th."""

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
            scorer.run([(prompt, ()) for prompt in prompts],
                       max_new_tokens=min(FIRST_TOKENS, answer_limit(study)),
                       on_scores=lambda scores: None, on_answers=answers.update)
            certainties = scorer.certainties
            texts = {index: prompter.decode(ids) for index, ids in answers.items()}
            rule = asked.fit([evidence_of(found.evidence, texts[index], certainties[index], asked.taught)
                              for index, found in enumerate(asked.found)], study.config.retrieval.false_declines)
            write_json(paths[run], {"inputs": inputs[run], "rule": rule and rule.to_record()})
            del cell
    return {run: rule_of(path, served=False) for run, path in paths.items()}


def leave_out_rule(study: Study, run: str) -> None:
    """Record that an assistant is served without its rule."""
    path = study.arm_folder(run) / FILE
    write_json(path, {**read_json(path), "left_out": True})


def copy_rule(study: Study, retriever: Retriever) -> DeclineRule | None:
    """The rule for copying the answer of the best fact: by what was found alone, on the same questions."""
    asked = ValidationQuestions(study, retriever)
    return asked.fit([found_alone(found.evidence) for found in asked.found], study.config.retrieval.false_declines)


def _inputs(study: Study, run: str) -> dict[str, Any]:
    folder = study.retrieval_folder
    return {"adapter": read_json(study.arm_folder(run) / "summary.json")["adapter_sha256"],
            "validation": file_hash(study.split_file("validation")),
            "retrieval": study.config.retrieval.model_dump(mode="json", exclude={"sources_in_endpoint", "final_index"}),
            "max_new_tokens": answer_limit(study),
            "index": {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file()}}


class ValidationQuestions:
    """The questions of a study by which rules are fitted.

    Attributes:
        pairs: The pair of each question.
        kinds: Its kind. A question is answerable if a fact in the index states its answer; one whose answer is not in
            the data should be declined.
        found: What was found for it.
    """

    def __init__(self, study: Study, retriever: Retriever) -> None:
        training, pairs = (load_split(study.folder / "data", split) for split in ("train", "validation"))
        self._retriever, self._training = retriever, _some([pair for pair in training if pair.answerable])
        self.sentence = decline_sentence(training)
        self.taught = sorted({pair.answer for pair in training if not pair.answerable})
        rows = supporting(retriever.index, [facts_of(pair)[-1] for pair in pairs])
        known = _some([(pair, support) for pair, support in zip(pairs, rows, strict=True)
                       if pair.answerable and support])
        asked: list[tuple[str, Pair, Collection[int]]] = [(ANSWERABLE, pair, ()) for pair, _ in known]
        asked += [(TO_DECLINE, pair, ()) for pair in _some([
            pair for pair, support in zip(pairs, rows, strict=True) if not (pair.answerable and support)])]
        asked += [(TO_DECLINE, pair, {pair.row}) for pair in _some([pair for pair in training if not pair.answerable])]
        asked += [(WITHHELD, pair, support) for pair, support in known]
        self.kinds, self.pairs = [kind for kind, _, _ in asked], [pair for _, pair, _ in asked]
        self.found = retriever.find([pair.messages[:-1] for pair in self.pairs], exclude=[rows for *_, rows in asked])

    def fit(self, evidence: Sequence[Evidence], target: float) -> DeclineRule | None:
        """The rule, from the evidence of each question in the order of ``found``."""
        facts = [pair.cluster or (pair.answer if pair.answerable else pair.messages[-2].content) for pair in self.pairs]
        found = fit(evidence, self.kinds, facts, target=target, sentence=self.sentence)
        if ANSWERABLE in self.kinds:
            return found
        rows = supporting(self._retriever.index, [facts_of(pair)[-1] for pair in self._training])
        alone = self._retriever.find([pair.messages[:-1] for pair in self._training], exclude=rows)
        return without_answerable([each.evidence.similarity for each in alone], target=target, sentence=self.sentence)


def _some(questions: Sequence[T]) -> Sequence[T]:
    """At most :data:`MOST_QUESTIONS`, evenly spaced."""
    return questions[:: -(-len(questions) // MOST_QUESTIONS) or 1]
