"""Load an export with public libraries, score a sample of the held-out items, and compare with the evaluation.

Torch is imported inside functions, which only the export's process calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import file_hash, read_json, read_jsonl
from assistant_builder.data import Message
from assistant_builder.error_translation import ran_out_of_memory
from assistant_builder.errors import EvaluationError
from assistant_builder.export_formats import ExportSpec
from assistant_builder.i18n import m
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.remote_code import allows_code
from assistant_builder.quantization import METHODS
from assistant_builder.retrieval.grounding import with_facts
from assistant_builder.retrieval.index import Fact
from assistant_builder.study import Study
from assistant_builder.study.contents import ItemLine, SampleLine, Scores
from evals.work_items import evenly_spaced

if TYPE_CHECKING:
    from collections.abc import Iterator

TOLERANCE = 0.03
"""Nats per token by which an item may change: bfloat16 on other hardware, or other kernels, moves it by up to 0.016."""
FLOAT16_MAX = 65_504.0
DEFAULT_SAMPLE = 20
Outcome = Literal["as measured", "moved", "not measured"]
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Rescore:
    """Result of scoring the written files again."""

    # ``as measured``: no item moved by more than the tolerance; ``moved``: at least one did, but the sample as a
    # whole is not worse by more; ``not measured``: the evaluation has no scores of this adapter to compare with, or
    # ``reason`` says why
    outcome: Outcome
    cell: str | None = None
    items: int = 0
    tokens: int = 0
    tolerance: float = TOLERANCE  # largest accepted change of an item, in nats per token
    nll_per_token: float | None = None  # loss of the written files, token-weighted
    measured_nll_per_token: float | None = None  # loss of the cell on the same items
    largest_move: float | None = None  # largest change of an item, in nats per token
    largest_item: str | None = None  # the item with the largest change
    moved: int = 0  # number of items that changed by more than the tolerance
    compute_dtype: str | None = None
    # largest absolute value between layers; None for an adapter
    largest_activation: float | None = None
    reason: str = ""  # why nothing was measured although the evaluation has scores; else empty
    lossy: bool = False  # whether the format rounds weights to fewer than 16 bits
    # whether the base of an adapter rounds its inputs by what else is in their batch
    batch_dependent: bool = False


@dataclass(frozen=True)
class Measured:
    """Scores to compare with."""

    cell: str
    scores: dict[str, Any]  # its ``scores.json``
    samples: dict[str, dict[str, Any]]  # its ``samples.jsonl`` by item
    items: list[dict[str, Any]]  # the items as they were scored, with ``prompt`` and ``target``


def load_measured(study: Study, spec: ExportSpec) -> Measured | None:
    """The scores of the export's own cell, else of the arm's cell; None if neither is of this adapter."""
    path = study.evals_folder / "tasks" / "items.jsonl"
    if not path.is_file():
        return None
    adapter = study.arm_summary(spec.arm)["adapter_sha256"]
    for cell in (spec.cell_in(study.config.model.quant_type), ARMS[spec.arm].cell):
        if cell is None or not (study.cell_folder(cell) / "scores.json").is_file():
            continue
        folder = study.cell_folder(cell)
        scores = read_json(folder / "scores.json", Scores)
        inputs = scores.get("inputs") or {}
        if inputs.get("adapter") == adapter and inputs.get("items") == file_hash(path):
            samples = {
                sample["item"]: sample
                for sample in read_jsonl(folder / "samples.jsonl", SampleLine)
            }
            return Measured(cell, scores, samples, read_jsonl(path, ItemLine))
    return None


def rescore(
    study: Study, spec: ExportSpec, base: Path, folder: Path, *, sample: int, tick: Tick
) -> Rescore:
    """Score ``sample`` items with an export and public libraries alone, in the evaluation's arithmetic.

    ``tick`` is called with the items done and in total, and may raise Cancelled. The outcome is ``not measured`` if
    memory does not suffice or the format cannot be scored.

    Raises:
        EvaluationError: The written model does not score as the evaluation measured.
    """
    known = load_measured(study, spec)
    if known is None:
        return Rescore("not measured")
    prompter = ChatTokenizer.load(folder)
    chosen = evenly_spaced(known.items, sample)
    _require_same_prompts(chosen, prompter, folder)
    try:
        return _score_again(study, spec, base, folder, known, chosen, prompter, tick)
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        return Rescore(
            "not measured",
            reason="memory ran out when the written model was loaded or scored. Export "
            "again where more memory is free",
        )


def _score_again(
    study: Study,
    spec: ExportSpec,
    base: Path,
    folder: Path,
    known: Measured,
    chosen: Sequence[dict[str, Any]],
    prompter: ChatTokenizer,
    tick: Tick,
) -> Rescore:
    from evals.lm_eval_model import StudyLM

    model, dtype = _load(study, spec, base, folder, str(known.scores["compute_dtype"]))
    if model is None:
        return Rescore(
            "not measured", reason=f"the format {spec.format} cannot be scored on this machine"
        )
    done = 0

    def count(_: str, items: float) -> None:
        nonlocal done
        done += round(items)
        tick(done, len(chosen))

    lm = StudyLM(
        model,
        prompter,
        own_tasks=(),
        batch_size=study.config.eval.batch_size,
        max_new_tokens=1,
        tick=count,
    )
    with _largest_output(model) as largest:
        found = lm.score_targets([(item["prompt"], item["target"]) for item in chosen])
    samples = [known.samples[item["item"]] for item in chosen]
    was = [(sample["item"], sample["nll"], sample["tokens"]) for sample in samples]
    now = [(score.nll, score.tokens) for score in found]
    # whether the base of an adapter rounds its inputs, so that a score depends on the other items of its batch
    method = METHODS[ARMS[spec.arm].base_storage(study.config.model.quant_type)]
    dependent = spec.export_format.keeps_storage and method.rounds_inputs
    lossy = spec.export_format.lossy
    record = compare(known.cell, was, now, where=str(folder), lossy=lossy or dependent)
    activation = largest() if not spec.export_format.needs_base else None
    record = replace(record, lossy=lossy, compute_dtype=dtype, largest_activation=activation)
    return replace(record, batch_dependent=dependent)


def compare(
    cell: str,
    was: Sequence[tuple[str, float, int]],
    now: Sequence[tuple[float, int]],
    *,
    where: str = "",
    lossy: bool = False,
) -> Rescore:
    """Compare losses item by item.

    ``was`` and ``now`` have the items in the same order; losses are summed NLLs. ``lossy`` is whether weights were
    rounded to fewer than 16 bits, or scores depend on the batch, so that a worse loss is no error.

    Raises:
        EvaluationError: A loss is not finite, the tokens differ, or the sample is worse by more than the tolerance.
    """
    remedy = m("Nothing was written. {Redo}; if that does not help, export the other format")
    if any(not math.isfinite(nll) for nll, _ in now):
        raise EvaluationError(
            m("the written model's loss is not finite"), where=where, remedy=remedy
        )
    if [tokens for _, _, tokens in was] != [tokens for _, tokens in now]:
        raise EvaluationError(
            m("the written tokenizer splits the answers into other tokens than the evaluation's"),
            where=where,
            remedy=remedy,
        )
    total = sum(tokens for _, tokens in now)
    before, after = sum(nll for _, nll, _ in was) / total, sum(nll for nll, _ in now) / total
    moves = {
        item: abs(new - old) / tokens
        for (item, old, tokens), (new, _) in zip(was, now, strict=True)
    }
    worst = max(moves, key=lambda item: moves[item])
    # Adapters of a few steps are so small that bfloat16 swallows part of them where they are added to activations, and
    # less where they are merged: 0.08 nats better than measured in one case. Only a worse loss is an error.
    if after - before > TOLERANCE and not lossy:
        raise EvaluationError(
            m(
                "the written model is not the one that was measured: its loss on {now} held-out items is {after:.3f} "
                "nats a token, that of {cell} is {before:.3f}",
                now=len(now),
                after=after,
                cell=cell,
                before=before,
            ),
            where=where,
            remedy=remedy,
        )
    moved = sum(move > TOLERANCE for move in moves.values())
    return Rescore(
        "moved" if moved else "as measured",
        cell=cell,
        items=len(now),
        tokens=total,
        nll_per_token=after,
        measured_nll_per_token=before,
        largest_move=moves[worst],
        largest_item=worst,
        moved=moved,
        lossy=lossy,
    )


def item_messages(item: Mapping[str, Any]) -> list[Message]:
    """The conversation of an evaluated item's prompt, with the facts that were found for it."""
    messages = [
        Message(message["role"], message["content"])
        for message in item.get("read", item["messages"])
    ]
    rows = (
        (source, -1 if source["row"] is None else source["row"])
        for source in item.get("sources", ())
    )
    facts = [
        Fact(row, 0, source["question"], source["answer"], "", None, None, True)
        for source, row in rows
    ]
    return with_facts(messages, facts) if facts else messages


def _require_same_prompts(
    items: Sequence[Mapping[str, Any]], prompter: ChatTokenizer, folder: Path
) -> None:
    for item in items:
        if prompter.text(item_messages(item), prompt=True) != item["prompt"]:
            raise EvaluationError(
                m(
                    "the written chat template renders held-out item {item} differently from the evaluation's",
                    item=item["item"],
                ),
                where=str(folder),
                remedy=m("{Redo}, so that it is evaluated with this template"),
            )


def _load(study: Study, spec: ExportSpec, base: Path, folder: Path, dtype: str) -> tuple[Any, str]:
    from assistant_builder.models.loading import DTYPES, pick_device, resolve_compute_dtype

    device = pick_device()
    dtype = resolve_compute_dtype(dtype, device)
    options = {
        "dtype": DTYPES[dtype],
        "device_map": {"": device},
        "local_files_only": True,
        "use_safetensors": True,
        "trust_remote_code": allows_code(study.config.model),
    }
    model = spec.export_format.load(study, spec.arm, base, folder, options)
    return (None if model is None else model.eval()), dtype


@contextmanager
def _largest_output(model: Any) -> Iterator[Callable[[], float]]:
    """Track the largest absolute value between two layers: beyond 65504 float16 arithmetic overflows."""
    import torch

    largest = 0.0

    def look(_module: Any, _inputs: Any, output: Any) -> None:
        nonlocal largest
        first = output[0] if isinstance(output, tuple | list) else output
        if isinstance(first, torch.Tensor) and first.is_floating_point() and first.numel():
            largest = max(largest, float(first.abs().max()))

    hooks = [
        layer.register_forward_hook(look) for layer in model.modules() if not list(layer.children())
    ]
    try:
        yield lambda: largest
    finally:
        for hook in hooks:
            hook.remove()
