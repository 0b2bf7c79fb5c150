"""``python -m benchmarks.evaluation_speed STUDY``: evaluation speed compared with the usual alternatives.

Ratios of alternating runs: answers by ``generate`` one at a time against packed batches; scoring every item from its
first token against reading once what prompts share, and the same for a GGUF file in llama.cpp, prompts in their order
against sorted ones, both in processor time; a new ``lm-eval run`` per main cell against the evaluation of the four
cells, both with imports and loading; loading an assistant into the chat against switching to the base that it shares.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from assistant_builder.arms import CELLS, TWINS, main_cells
from assistant_builder.atomic_io import read_jsonl, write_json
from assistant_builder.child_process import compute_environment, configure_libraries, python_command
from assistant_builder.errors import EvaluationError
from assistant_builder.models.base_model import fetch_base
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.planning.hardware import this_machine
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit
from benchmarks.paths import log_end

_ONE_AT_A_TIME = 12
"""Questions answered one at a time in a round."""
PARTS = ["answering", "beginnings", "files", "cells", "switching"]


def answering(
    study: Study, base: Path, items: Sequence[dict[str, Any]], rounds: int
) -> list[dict[str, float]]:
    """Tokens a second of the 16-bit assistant, one question at a time and in batches, round by round."""
    from assistant_builder.inference.chunks import Sampling
    from assistant_builder.inference.generate import generate_with_transformers
    from evals.cells import Variant, load_cells
    from evals.lm_eval_model import reader

    prompter = ChatTokenizer.load(base)
    longest = answer_limit(study)
    ids = [prompter.split_ids(item["prompt"], "")[0] for item in items]
    found: list[dict[str, float]] = []
    for cell in load_cells(study, base, [Variant(CELLS["L16"])]):
        for _ in range(rounds + 1):  # the first is for warming up
            began, tokens = time.perf_counter(), 0
            for prompt in ids[:_ONE_AT_A_TIME]:
                reply = generate_with_transformers(
                    cell.model, prompter, prompt, longest, Sampling(), threading.Event(), []
                )
                tokens += len(list(reply))
            alone = tokens / (time.perf_counter() - began)
            together: dict[int, list[int]] = {}
            began = time.perf_counter()
            reader(cell.model, prompter, study.config.eval.batch_size).run(
                [(prompt, ()) for prompt in ids],
                max_new_tokens=longest,
                on_scores=lambda scores: None,
                on_answers=together.update,
            )
            seconds = time.perf_counter() - began
            found.append({"alone": alone, "together": sum(map(len, together.values())) / seconds})
    return found[1:]


def beginnings(
    study: Study, base: Path, items: Sequence[dict[str, Any]], rounds: int
) -> list[dict[str, float]]:
    """Processor seconds of scoring and answering with the 16-bit assistant, round by round.

    ``apart``: every prompt from the first token that not all share; ``once``: what prompts share is read once. And in
    how many items they differ: ``nll``, by more than 0.001 nats per token, and ``answers``.
    """
    from assistant_builder.inference.batch_scorer import LEAST_SHARED, BatchScorer, Scored
    from evals.cells import Variant, load_cells

    prompter, size = ChatTokenizer.load(base), study.config.eval.batch_size
    ids = [prompter.split_ids(item["prompt"], item["target"]) for item in items]
    found = []
    for cell in load_cells(study, base, [Variant(CELLS["L16"])]):
        for number in range(rounds):
            scores: dict[str, dict[int, Scored]] = {"apart": {}, "once": {}}
            answers: dict[str, dict[int, list[int]]] = {"apart": {}, "once": {}}
            seconds = {}
            for name in ("apart", "once") if number % 2 else ("once", "apart"):
                least = LEAST_SHARED if name == "once" else sys.maxsize
                scorer = BatchScorer(
                    cell.model, prompter.pad_id, prompter.stop_ids, size, least_shared=least
                )
                began = time.process_time()
                scorer.run(
                    ids,
                    max_new_tokens=answer_limit(study),
                    on_scores=scores[name].update,
                    on_answers=answers[name].update,
                )
                seconds[name] = time.process_time() - began
            nll = sum(
                abs(float((scores["apart"][place][0] - scores["once"][place][0]).sum()))
                > 1e-3 * len(target)
                for place, (_, target) in enumerate(ids)
            )
            different = sum(
                answers["apart"][place] != answers["once"][place] for place in answers["once"]
            )
            found.append({**seconds, "nll": nll, "answers": different})
    return found


def files(
    study: Study, base: Path, items: Sequence[dict[str, Any]], rounds: int
) -> list[dict[str, float]]:
    """Processor seconds of llama.cpp for the answers of the smallest file, prompts in their order and sorted.

    And the prompt tokens that it read (``tokens given``, ``tokens sorted``), of which those in its cache are none.
    """
    from assistant_builder.export.gguf import GgufFiles
    from assistant_builder.inference.llamacpp import LlamaServer
    from evals.formats import SLOTS

    prompter, limit = ChatTokenizer.load(base), answer_limit(study)
    prompts = [prompter.split_ids(item["prompt"], "")[0] for item in items]
    path = GgufFiles(study, "lora").path(study.config.formats.types[-1])
    found = []
    for number in range(rounds):
        measured: dict[str, float] = {}
        for name in ("given", "sorted") if number % 2 else ("sorted", "given"):
            with LlamaServer(
                path, context=max(map(len, prompts)) + limit + 1, slots=SLOTS
            ) as server:
                before = server.processor_seconds
                if name == "sorted":
                    by_place = dict(server.complete_all(prompts, limit, logprobs=True))
                    answers = list(by_place.values())
                else:
                    with ThreadPoolExecutor(SLOTS) as pool:
                        ask = partial(server.complete, max_new_tokens=limit, logprobs=True)
                        answers = list(pool.map(ask, prompts))
                measured[name] = server.processor_seconds - before
            measured[f"tokens {name}"] = sum(
                each.prompt_tokens - each.cached_tokens for each in answers
            )
        found.append(measured)
    return found


def stored_in_4_bits(study: Study, base: Path, folder: Path) -> Path:
    """Save the base in 4 bits with transformers: lm-eval's own 4-bit option does not work with transformers 5."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    model, dtype = study.config.model, _dtype(study)
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=model.quant_type,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=model.double_quant,
    )
    AutoModelForCausalLM.from_pretrained(
        base, quantization_config=how, dtype=dtype
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def _dtype(study: Study) -> str:
    wanted = study.config.model.compute_dtype
    return this_machine().compute_dtype if wanted == "auto" else wanted


def lm_eval_run(
    study: Study, bases: dict[str, Path], cell: str, items: int, scratch: Path
) -> float:
    """Seconds of a fresh ``lm-eval run`` of the study's tasks on one cell; ``bases`` are the folders by storage.

    Raises:
        EvaluationError: It failed.
    """
    spec = CELLS[cell]
    words = [f"pretrained={bases[spec.base]}", f"dtype={_dtype(study)}"]
    if spec.adapter:
        words.append(f"peft={study.arm_folder(spec.adapter) / 'adapter'}")
    began = time.perf_counter()
    options = {
        "model": "hf",
        "model_args": ",".join(words),
        "include_path": study.folder / "evals" / "tasks",
        "tasks": f"{study.name}_nll,{study.name}_gen",
        "limit": items,
        "batch_size": study.config.eval.batch_size,
        "output_path": scratch / cell,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    _run(["-m", "lm_eval", "run", *words])
    return time.perf_counter() - began


def score_four(study: Study, base: Path, items: Sequence[dict[str, Any]]) -> None:
    """Score the four main cells through lm-eval, as the evaluation does."""
    from evals.cells import Variant, load_cells
    from evals.lm_eval_model import StudyLM
    from evals.tasks.held_out import run_own_tasks, write_tasks

    prompter = ChatTokenizer.load(base)
    with tempfile.TemporaryDirectory() as scratch:
        shortened = Study(Path(scratch) / study.name)
        shortened.write_config(study.config)
        tasks = write_tasks(shortened, items)
        for cell in load_cells(study, base, [Variant(CELLS[name]) for name in main_cells(TWINS)]):
            lm = StudyLM(
                cell.model,
                prompter,
                own_tasks=(tasks.nll, tasks.generation),
                answering=True,
                batch_size=study.config.eval.batch_size,
                max_new_tokens=answer_limit(study),
                tick=lambda kind, count: None,
            )
            run_own_tasks(lm, tasks, items, study.config.eval.seed)
            del cell, lm  # otherwise their memory stays in use while the next base is loaded


def four_cells(study: Study, base: Path, items: int, rounds: int) -> list[dict[str, float]]:
    """Seconds for the four main cells through fresh ``lm-eval run`` processes and by the evaluation, round by round."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        bases = {"float16": base, "4-bit": stored_in_4_bits(study, base, Path(scratch) / "4-bit")}
        for _ in range(rounds):
            fresh = sum(
                lm_eval_run(study, bases, cell, items, Path(scratch)) for cell in main_cells(TWINS)
            )
            began = time.perf_counter()
            options = ("--items", str(items), "--only-score")
            _run(["-m", "benchmarks.evaluation_speed", str(study.folder), *options])
            found.append({"lm_eval": fresh, "ours": time.perf_counter() - began})
    return found


def switching(study: Study, rounds: int) -> list[dict[str, float]]:
    """Seconds until the chat can answer with the 16-bit assistant, and then with its base, round by round."""
    from assistant_builder.inference.session import BASE, ChatSession
    from assistant_builder.models import loading

    found = []
    for _ in range(rounds + 1):  # the first imports
        session = ChatSession(study)
        began = time.perf_counter()
        session.load("lora")
        loaded = time.perf_counter()
        session.load(BASE)
        found.append({"load": loaded - began, "switch": time.perf_counter() - loaded})
        del session
        loading.free_memory()
    return found[1:]


def table(record: dict[str, Any]) -> str:
    """The ratios, medians of the rounds."""
    lines = [
        f"{record['items']} held-out items of the study {record['study']}, answers of up to "
        f"{record['max_new_tokens']} tokens, {record['processors']} processors.",
        "",
        "| | otherwise | here | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    for title, unit, part, slower, faster in (
        ("answers, one at a time and together", "tokens/s", "answering", "alone", "together"),
        ("four main cells, fresh `lm-eval run` and evaluation", "s", "cells", "lm_eval", "ours"),
        (
            "scoring and answering, beginnings read apart and once",
            "s",
            "beginnings",
            "apart",
            "once",
        ),
        ("answers of a GGUF file, prompts as given and sorted", "s", "files", "given", "sorted"),
        (
            "another assistant in the chat, loaded and on a shared base",
            "s",
            "switching",
            "load",
            "switch",
        ),
    ):
        rounds = record[part]
        if not rounds:
            continue
        before, after = (
            statistics.median(each[key] for each in rounds) for key in (slower, faster)
        )
        power = 1 if unit == "s" else -1  # of seconds less is faster, of tokens a second more
        ratio = statistics.median((each[slower] / each[faster]) ** power for each in rounds)
        lines.append(f"| {title} | {before:.3g} {unit} | {after:.3g} {unit} | {ratio:.1f} |")
    if record["beginnings"]:
        worst = {key: max(each[key] for each in record["beginnings"]) for key in ("nll", "answers")}
        lines += [
            "",
            f"Beginnings read once: {worst['nll']} other losses (by 0.001), {worst['answers']} other answers.",
        ]
    if record["files"]:
        tokens = [record["files"][-1][f"tokens {name}"] for name in ("given", "sorted")]
        lines += [
            "",
            "Prompt tokens that llama.cpp read: {:,} as given, {:,} sorted.".format(*tokens),
        ]
    return "\n".join(lines)


def _run(words: Sequence[str]) -> None:
    environment = {**os.environ, **compute_environment(), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        python_command(*words), capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise EvaluationError(
            f"{' '.join(words[:3])} failed: {log_end(done.stderr)}",
            remedy="Run the command yourself to see the complete output",
        )


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation_speed", description=__doc__
    )
    parser.add_argument("study", type=Path, help="folder of a study that has been evaluated")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only-score", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("bench-results") / "evaluation.json")
    args = parser.parse_args(words)
    configure_libraries()
    study = Study(args.study.resolve())
    base = fetch_base(study.config.model)
    items = read_jsonl(study.folder / "evals" / "tasks" / "items.jsonl")[: args.items]
    if args.only_score:
        score_four(study, base, items)
        return
    record = {
        "study": study.name,
        "items": len(items),
        "max_new_tokens": answer_limit(study),
        "processors": os.cpu_count(),
        "answering": answering(study, base, items, args.rounds)
        if "answering" in args.parts
        else [],
        "beginnings": beginnings(study, base, items, args.rounds)
        if "beginnings" in args.parts
        else [],
        "files": files(study, base, items, args.rounds) if "files" in args.parts else [],
        "cells": four_cells(study, base, len(items), args.rounds) if "cells" in args.parts else [],
        "switching": switching(study, args.rounds) if "switching" in args.parts else [],
    }
    write_json(args.out, record)
    print(table(record))


if __name__ == "__main__":
    main()
