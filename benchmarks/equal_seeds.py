"""``python -m benchmarks.equal_seeds``: A/A comparisons of retrained seeds, and of assistants that were damaged.

Trains the 16-bit arm of the ferries data with several seeds for a few steps, scores the loss of the held-out answers,
and compares every pair of seeds in both directions: the arms are equal but for the seed, so "worse" should be rare. It
then damages the first seed in two ways, and each damage should come out worse: training on answers that were moved to
other questions, and an adapter with a tenth of its rows set to zero. ``--write`` replaces the table of
``docs/method.md``. With ``--study NAME`` it compares the seeds of each arm of that study by all of its bounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.arms import CELLS, LORA
from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.config import StudyConfig
from assistant_builder.data import load_split, prepare_dataset
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.fetch import fetch
from assistant_builder.study import Study, home
from benchmarks.doc_tables import METHOD_PAGE, markdown_table, read_section, write_section
from benchmarks.paths import FERRIES, temporary_home
from evals.compare import Comparison, paired_comparison
from evals.decision import decide
from evals.declaration import LOSS, SHARE_OF_GAIN
from evals.report.load import BASELINE, read_cells, tuned_cells
from evals.report.rules import Rules
from evals.report.stability import seed_cells

SECTION = "equal-seeds"
ZEROED = 0.1
"""Share of the adapter's rows that the second damage sets to zero."""


@dataclass(frozen=True)
class Losses:
    """Loss in nats per token, tokens and fact of each item."""

    values: list[float]
    tokens: list[int]
    facts: list[str]

    @property
    def mean(self) -> float:
        """The token-weighted loss."""
        return sum(map(math.prod, zip(self.values, self.tokens, strict=True))) / sum(self.tokens)


def make_study(name: str, seeds: int, steps: int) -> Study:
    """A study of the 16-bit arm on the ferries data, with its split."""
    config = StudyConfig().with_changes(
        {
            "name": name,
            "arms": [LORA.name],
            "seeds": seeds,
            "data.source": FERRIES.name,
            "train.preset": "custom",
            "train.max_steps": steps,
            "train.learning_rate": 1e-3,
            "train.max_length": 128,
            "train.evaluations": 1,
        }
    )
    study = Study.create(config, FERRIES)
    assert study.source is not None
    prepare_dataset(study.source, config.data, folder=study.folder / "data", title=name)
    return study


def losses(study: Study, base: Path, cell: str = LORA.cell, seed: int = 1) -> Losses:
    """Loss of each answerable held-out item in nats per token, with its tokens and its fact."""
    from evals.cells import Variant, load_cells
    from evals.lm_eval_model import StudyLM
    from evals.tasks.held_out import build_items

    prompter = ChatTokenizer.load(base)
    items = [
        item
        for item in build_items(load_split(study.folder / "data", "heldout"), prompter)
        if item["answerable"]
    ]
    loaded = next(iter(load_cells(study, base, [Variant(CELLS[cell], seed)])))
    lm = StudyLM(
        loaded.model,
        prompter,
        own_tasks=[],
        batch_size=64,
        max_new_tokens=4,
        tick=lambda kind, count: None,
    )
    scores = lm.score_targets([(item["prompt"], item["target"]) for item in items])
    return Losses(
        [score.nll / score.tokens for score in scores],
        [score.tokens for score in scores],
        [item["cluster"] for item in items],
    )


def judge(before: Losses, after: Losses, margin: float) -> Comparison:
    """Compare two assistants as the report does: clustered by fact, weighted by answer tokens."""
    return paired_comparison(
        before.values,
        after.values,
        clusters=before.facts,
        weights=before.tokens,
        margin=margin,
        higher_is_better=False,
    )


def shuffle_answers(study: Study) -> None:
    """Move the training answers to other questions."""
    path = study.split_file("train")
    pairs = read_jsonl(path)
    answers = [pair["messages"][-1]["content"] for pair in pairs]
    half = len(answers) // 2
    for pair, answer in zip(pairs, answers[half:] + answers[:half], strict=True):
        pair["messages"][-1]["content"] = answer
    write_jsonl(path, pairs)
    record = read_json(study.folder / "data" / "split.json")
    write_json(
        study.folder / "data" / "split.json",
        {**record, "hashes": {**record["hashes"], "train": file_hash(path)}},
    )


def zero_rows(study: Study) -> None:
    """Set every tenth row of the adapter's output matrices to zero."""
    from safetensors.torch import load_file, save_file

    path = study.arm_folder(LORA.name) / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    for name, weight in weights.items():
        if "lora_B" in name:
            weight[:: round(1 / ZEROED)] = 0
    save_file(weights, path, metadata={"format": "pt"})


def run(seeds: int, steps: int) -> dict[str, Any]:
    """Train, score and compare."""
    from assistant_builder.training.train import train_arm

    study = make_study("equal-seeds", seeds, steps)
    base = fetch(resolve(study.config.model.base))
    found = []
    for seed in range(1, seeds + 1):
        train_arm(study, LORA.name if seed == 1 else f"{LORA.name}-{seed}")
        found.append(losses(study, base, seed=seed))
        print(f"seed {seed}: loss {found[-1].mean:.4f}", file=sys.stderr, flush=True)
    gain = losses(study, base, LORA.untuned_cell).mean - found[0].mean
    margin = SHARE_OF_GAIN * gain
    pairs = [judge(one, other, margin) for one, other in itertools.permutations(found, 2)]
    damaged = {}
    shuffled = make_study("shuffled", 1, steps)
    shuffle_answers(shuffled)
    train_arm(shuffled, LORA.name)
    damaged["shuffled answers"] = judge(found[0], losses(shuffled, base), margin)
    zero_rows(study)
    damaged["a tenth of the rows zeroed"] = judge(found[0], losses(study, base), margin)
    return {
        "seeds": seeds,
        "steps": steps,
        "items": len(found[0].values),
        "facts": len(set(found[0].facts)),
        "pairs": len(pairs),
        "gain": gain,
        "margin": margin,
        "outcomes": {
            outcome: sum(pair.verdict == outcome for pair in pairs)
            for outcome in ("no worse", "worse", "inconclusive")
        },
        "worse_share": sum(pair.verdict == "worse" for pair in pairs) / len(pairs),
        "damage": {
            name: {"verdict": pair.verdict, "delta": pair.delta, "ci": [pair.ci_low, pair.ci_high]}
            for name, pair in damaged.items()
        },
    }


def of_study(name: str) -> list[tuple[str, int, int, str]]:
    """Cell, two of its seeds and the verdict of the second one against the first one, by the rules of a study."""
    study = Study.open(name).recommended
    cells, rules = read_cells(study), Rules.of(study)

    def items(metric: str) -> list[str]:
        return [
            item
            for item in rules.items(cells[BASELINE], metric)
            if all(cell.value(item, metric) is not None for cell in cells.values())
        ]

    rules = rules.with_gain(cells.get(LORA.untuned_cell), cells.get(LORA.cell), items(LOSS))
    found: list[tuple[str, int, int, str]] = []
    by_seed = seed_cells(study, cells)
    for cell, (one, other) in itertools.product(
        tuned_cells(study.config.arms), itertools.permutations(by_seed, 2)
    ):
        compared = {
            metric: rules.compare(by_seed[one][cell], by_seed[other][cell], metric, items(metric))
            for metric in rules.bounds
        }
        found.append((cell, one, other, decide(compared, rules.bounds).outcome))
    return found


def table(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    outcomes = ("no worse", "inconclusive", "worse")
    rows = [
        (
            "two seeds of one arm",
            str(found["pairs"]),
            *(str(found["outcomes"][each]) for each in outcomes),
        )
    ]
    rows += [
        (name, "1", *(str(int(damage["verdict"] == each)) for each in outcomes))
        for name, damage in found["damage"].items()
    ]
    options = f"--seeds {found['seeds']} --steps {found['steps']} --write"
    note = (
        f"`python -m benchmarks.equal_seeds {options}`: loss of the 16-bit arm on {found['items']} held-out "
        f"questions of {found['facts']} facts, margin {found['margin']:.3f} nats ({SHARE_OF_GAIN:.0%} of the gain "
        "of the first seed)."
    )
    return f"{note}\n\n{markdown_table(('compared', 'pairs', *(f'“{each}”' for each in outcomes)), rows)}"


def main() -> None:
    """Print the result as JSON."""
    parser = argparse.ArgumentParser(
        description="A/A comparisons of retrained seeds, and of damaged assistants."
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--write", action="store_true", help="replace the table of docs/method.md")
    parser.add_argument(
        "--study", help="an evaluated study with several seeds, whose seeds are compared instead"
    )
    options = parser.parse_args()
    if options.study:
        for cell, one, other, outcome in of_study(options.study):
            print(f"{cell}: seed {other} against seed {one}: {outcome}")
        return
    if options.write:
        read_section(SECTION, METHOD_PAGE)  # fails before the training without the marks
    models = home() / "models"
    with temporary_home() as folder:
        if models.is_dir():
            (folder / "models").symlink_to(models)
        found = run(options.seeds, options.steps)
    print(json.dumps(found, indent=1))
    if options.write:
        write_section(SECTION, table(found), METHOD_PAGE)


if __name__ == "__main__":
    main()
