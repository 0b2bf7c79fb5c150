"""The held-out set as two lm-eval tasks, ``<study>_nll`` and ``<study>_gen``.

The folder ``evals/tasks`` of a study can be passed to ``lm-eval run --include_path``. The program itself never loads
it, because a study can come from others. An item is one assistant turn with its preceding turns.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from assistant_builder.atomic_io import read_json, read_jsonl, write_text
from assistant_builder.data import Message, Pair, load_split
from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import m
from assistant_builder.retrieval.answering import Look, alone, looks
from assistant_builder.study import Study
from assistant_builder.study.contents import Embedding, ItemLine
from assistant_builder.study.limits import answer_limit
from evals.answers import AFTER, AFTER_TURNS
from evals.metrics import Context, score_answer, text_metrics

if TYPE_CHECKING:
    import datasets

    from assistant_builder.models.chat_template import ChatTokenizer
    from assistant_builder.retrieval.retriever import Retriever
    from evals.lm_eval_model import ReferenceScore, StudyLM

_FUNCTIONS = '''"""How lm-eval reads and scores this study's held-out items; needs assistant-builder installed."""

from pathlib import Path

from evals.tasks.held_out import items_dataset, score_generation, score_nll, token_weighted_mean

__all__ = ["choices", "items", "score_generation", "score_nll", "token_weighted_mean"]


def items(**_):
    return {"test": items_dataset(Path(__file__).with_name("items.jsonl"))}


def choices(doc):
    return [doc["lead"] + doc["target"], doc["lead"]]
'''


def heldout_pairs(study: Study) -> list[Pair]:
    """The held-out pairs without those that were removed as embedding leaks.

    Raises:
        EvaluationError: No pair is left.
    """
    path = study.embedding_file
    leaks = read_json(path, Embedding)["leaks"] if path.exists() else []
    removed = {leak["heldout_row"] for leak in leaks if leak.get("removed")}
    split = load_split(study.folder / "data", "heldout")
    pairs = [pair for pair in split if pair.row not in removed]
    if not pairs:
        raise EvaluationError(
            m("every held-out question is also in the training data"),
            where=m("{study} {name}", name=study.name),
            remedy=m("Add questions to the file, or set {data.remove_leaks=never}"),
        )
    return pairs


def build_items(
    pairs: Sequence[Pair],
    prompter: ChatTokenizer,
    retriever: Retriever | None = None,
    *,
    conversations: bool = True,
    training: Sequence[Pair] = (),
) -> list[dict[str, Any]]:
    """One item for each assistant turn; with a retriever, its prompt holds the facts that are found for it.

    Args:
        pairs: The held-out pairs.
        prompter: Tokenizer of the base.
        retriever: The retriever of the study; None where nothing is looked up.
        conversations: Whether the assistants read earlier turns.
        training: Pairs from which unrelated turns are drawn, to ask after; none are asked so without a retriever.

    Returns:
        ``item`` (its name), ``row``, ``turn``, ``cluster``, ``answerable``, ``question``, ``messages`` (the
        conversation), ``read`` (the messages of the prompt, if the assistant does not read all), ``reference``,
        ``prompt`` and ``target`` (rendered with the template), ``context`` and ``lead`` (the prompt and the white space
        at its end), ``tokens`` (of the target), and with a retriever ``sources``, ``evidence``, ``second`` (prompt,
        sources and evidence of the second look, if there is one) and ``after`` (the looks after 1 and 4 unrelated
        turns, where they differ from those of the question alone).
    """
    several = any(pair.turns > 1 for pair in pairs)
    turns = []
    for pair in pairs:
        ends = [end for end, message in enumerate(pair.messages) if message.role == "assistant"]
        turns += [(pair, turn, end) for turn, end in enumerate(ends)]
    asked = [looks(pair.messages[:end], conversations=conversations) for pair, _, end in turns]
    looked_up = (
        _looked_up(turns, asked, prompter, retriever, conversations, training)
        if retriever
        else None
    )
    items: list[dict[str, Any]] = []
    for place, (pair, turn, end) in enumerate(turns):
        talk = pair.messages[:end]
        read = asked[place][0].messages if retriever else talk if conversations else alone(talk)
        messages, hits = looked_up[place] if looked_up else (read, {})
        tokens = prompter.turns(replace(pair, messages=(*messages, pair.messages[end])))[-1]
        prompt, context = tokens.prompt_text, tokens.prompt_text.rstrip()
        item = {
            "item": f"{pair.row}.{turn + 1}" if pair.turns > 1 else str(pair.row),
            "row": pair.row,
            "turn": turn,
            "cluster": pair.cluster or (str(pair.row) if several else None),
            "answerable": pair.answerable,
            "question": pair.messages[end - 1].content,
            "messages": [message.to_record() for message in talk],
        }
        if tuple(read) != tuple(talk):
            item["read"] = [message.to_record() for message in read]
        item |= {
            "reference": tokens.reference,
            "prompt": prompt,
            "context": context,
            "lead": prompt[len(context) :],
            "target": tokens.answer_text,
            "tokens": len(tokens.answer_ids),
        }
        items.append(item | hits)
    return items


def _looked_up(
    turns: Sequence[tuple[Pair, int, int]],
    asked: Sequence[tuple[Look, Look | None]],
    prompter: ChatTokenizer,
    retriever: Retriever,
    conversations: bool,
    training: Sequence[Pair],
) -> list[tuple[list[Message], dict[str, Any]]]:
    """For each turn, the messages of the first prompt with its facts, and what its looks find as keys of an item."""
    after = []
    for (pair, turn, end), single in zip(turns, asked, strict=True):
        talks = {
            count: looks(_after(pair, end, training, count), conversations=conversations)
            for count in AFTER_TURNS
            if turn == 0 and training
        }
        after.append({count: pair for count, pair in talks.items() if pair != single})
    each = [*asked, *(pair for later in after for pair in later.values())]
    wanted = list(dict.fromkeys(look for pair in each for look in pair if look is not None))
    hits = dict(zip(wanted, retriever.find(wanted), strict=True))

    def record(look: Look) -> dict[str, Any]:
        sources, evidence = hits[look].source_records(), asdict(hits[look].evidence)
        return {"sources": sources, "evidence": evidence}

    def with_prompt(look: Look) -> dict[str, Any]:
        found = {"prompt": prompter.text(hits[look].messages, prompt=True), **record(look)}
        return found | ({"earlier": look.query.history} if look.query.history else {})

    rows = []
    for (first, second), later in zip(asked, after, strict=True):
        row = record(first)
        if second:
            row["second"] = with_prompt(second)
        if later:
            row[AFTER] = {
                str(count): [with_prompt(look) for look in pair if look]
                for count, pair in later.items()
            }
        rows.append((hits[first].messages, row))
    return rows


def _after(pair: Pair, end: int, training: Sequence[Pair], count: int) -> tuple[Message, ...]:
    rng = random.Random(f"after/{pair.row}")
    others = [
        other
        for other in training
        if other.turns == 1
        and other.answerable
        and other.answer != pair.answer
        and (pair.cluster is None or other.cluster != pair.cluster)
    ]
    chosen = rng.sample(others, min(count, len(others)))
    *system, question = pair.messages[:end]
    return (
        *system,
        *(message for other in chosen for message in other.messages if message.role != "system"),
        question,
    )


@dataclass(frozen=True)
class OwnTasks:
    """The two lm-eval tasks: ``nll`` on the reference answers, ``generation`` on the assistant's own.

    ``files`` are the name and text of each file in ``folder``.
    """

    folder: Path
    nll: str
    generation: str
    files: Mapping[str, str]


def write_tasks(study: Study, items: Sequence[Mapping[str, Any]]) -> OwnTasks:
    """Write the task folder.

    lm-eval moves white space at the end of a prompt, with most chat templates a line break, into the target. The
    likelihood task therefore requests two likelihoods, of line break and answer and of the line break alone, whose
    difference is that of the answer. This works with any model of lm-eval.
    """
    folder = study.evals_folder / "tasks"
    nll, generation = f"{study.name}_nll", f"{study.name}_gen"
    shared = {
        "custom_dataset": _Function("scoring.items"),
        "test_split": "test",
        "target_delimiter": "",
        "metadata": {"version": 2.0},
    }
    if all(item["lead"] for item in items):
        asked = {
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_target": 0,
            "doc_to_choice": _Function("scoring.choices"),
        }
    else:
        asked = {
            "output_type": "loglikelihood",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{target}}",
        }
    lines = [json.dumps(item, ensure_ascii=False, allow_nan=False) + "\n" for item in items]
    weighted = _Function("scoring.token_weighted_mean")
    # lm-eval averages over the items with a score
    means = [_metric(metric.name, "mean", metric.higher_is_better) for metric in text_metrics()]
    files = {
        "items.jsonl": "".join(lines),
        "scoring.py": _FUNCTIONS,
        f"{nll}.yaml": _yaml(
            {
                "task": nll,
                **shared,
                **asked,
                "process_results": _Function("scoring.score_nll"),
                "metric_list": [_metric("nll_per_token", weighted, False)],
            }
        ),
        f"{generation}.yaml": _yaml(
            {
                "task": generation,
                **shared,
                "output_type": "generate_until",
                "doc_to_text": "{{prompt}}",
                "doc_to_target": "{{reference}}",
                "generation_kwargs": {
                    "until": [],
                    "do_sample": False,
                    "max_gen_toks": answer_limit(study),
                },
                "process_results": _Function("scoring.score_generation"),
                "metric_list": means,
            }
        ),
    }
    for path in folder.glob("*"):  # lm-eval would run other tasks that it finds there
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in files and path.suffix in (".yaml", ".py"):
            path.unlink(missing_ok=True)
    for name, text in files.items():
        write_text(folder / name, text)
    return OwnTasks(folder, nll, generation, files)


def _metric(name: str, aggregation: str, higher_is_better: bool) -> dict[str, Any]:
    return {"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better}


def run_own_tasks(
    lm: StudyLM, tasks: OwnTasks, items: Sequence[Mapping[str, Any]], seed: int
) -> tuple[list[ReferenceScore], list[str]]:
    """Run both tasks on a cell with lm-eval, without its bootstrap, which does not support pairs.

    lm-eval reads them from a new folder, because it runs code of each file that it finds.

    Returns:
        The scores of the reference answers, and the assistant's answers, both in item order.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory(prefix="assistant-builder-") as folder:
        for name, text in tasks.files.items():
            write_text(Path(folder) / name, text)
        results = simple_evaluate(
            lm,
            tasks=[tasks.nll, tasks.generation],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            random_seed=seed,
            verbosity="WARNING",
        )
    assert results is not None  # only other ranks of a distributed run get nothing
    samples = results["samples"][tasks.generation]
    answers = {sample["doc"]["item"]: sample["resps"][0][0] for sample in samples}
    scores = [lm.targets[(item["prompt"], item["target"])] for item in items]
    return scores, [answers[item["item"]] for item in items]


def items_dataset(path: Path) -> datasets.Dataset:
    """The items as a dataset for lm-eval."""
    import datasets

    return datasets.Dataset.from_list(read_jsonl(path, ItemLine))


def score_nll(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, tuple[float, int]]:
    """Summed NLL of the reference answer in nats and its number of tokens, for the token-weighted mean."""
    (whole, _), *lead = results
    return {"nll_per_token": (sum(likelihood for likelihood, _ in lead) - whole, doc["tokens"])}


def score_generation(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The text metrics that apply to a generated answer."""
    context = Context(doc["question"], doc["answerable"], doc["messages"])
    return score_answer(results[0], doc["reference"], context)


def token_weighted_mean(pairs: Sequence[tuple[float, int]]) -> float:
    """Σ nll / Σ tokens in nats per token; perplexity is its exponential."""
    return sum(nll for nll, _ in pairs) / sum(tokens for _, tokens in pairs)


class _Function(str):
    """A function reference that lm-eval resolves relative to the YAML file."""


def _yaml(tree: Mapping[str, Any]) -> str:
    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(
        _Function, lambda dumper, name: dumper.represent_scalar("!function", str(name))
    )
    return yaml.dump(dict(tree), Dumper=Dumper, sort_keys=False, allow_unicode=True)
