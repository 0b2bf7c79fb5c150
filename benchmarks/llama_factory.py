"""LLaMA-Factory as a candidate; it needs older libraries and therefore its own environment.

``python -m benchmarks.training_speed --llama-factory PYTHON`` names the Python of that environment. It runs this module
as ``python -m benchmarks.llama_factory JOB ARM FOLDER``; the trained adapter is measured like those of the others.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.errors import EvaluationError
from benchmarks.paths import ROOT, log_end

if TYPE_CHECKING:
    from benchmarks.job import Job
    from benchmarks.stopwatch import Stopwatch
    from benchmarks.trainers import Trained

VARIABLE = "ASSISTANT_BUILDER_LLAMA_FACTORY"
"""Environment variable with the Python of its environment."""


def train(job: Job, arm: str, scratch: Path, watch: Stopwatch) -> Trained:
    """Train with LLaMA-Factory and load the saved adapter.

    Raises:
        EvaluationError: It failed.
    """
    from peft import PeftModel

    from benchmarks.trainers import Trained, load_base

    job.write(scratch / "job.json")
    done = subprocess.run(
        [
            os.environ[VARIABLE],
            "-m",
            "benchmarks.llama_factory",
            str(scratch / "job.json"),
            arm,
            str(scratch),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        raise EvaluationError(
            f"LLaMA-Factory failed: {log_end(done.stderr, ' | ')}",
            remedy="Omit --llama-factory",
        )
    watch.take(read_json(scratch / "stamps.json"))
    state = read_json(scratch / "trained" / "trainer_state.json")
    logs = [entry for entry in state["log_history"] if "loss" in entry]
    model = PeftModel.from_pretrained(load_base(job, arm), str(scratch / "trained"))
    return Trained(
        model,
        [entry["loss"] for entry in logs],
        [int(entry["num_input_tokens_seen"]) for entry in logs],
    )


def settings(job: dict[str, Any], arm: str, folder: Path, device: str) -> dict[str, Any]:
    """Settings for LLaMA-Factory; every other setting keeps its default."""
    config, dtype = job["train"], job["model"]["compute_dtype"]
    micro = min(config["micro_batch_size"], config["batch_size"])
    four_bit = {
        "quantization_bit": 4,
        "quantization_method": "bnb",
        "quantization_type": job["model"]["quant_type"],
        "double_quantization": job["model"]["double_quant"],
    }
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "model_name_or_path": job["folder"],
        "template": "chatml",
        "dataset": "pairs",
        "dataset_dir": str(folder),
        "output_dir": str(folder / "trained"),
        "lora_target": "all",
        "lora_rank": config["rank"],
        "lora_alpha": int(config["alpha"]),
        "lora_dropout": config["dropout"],
        "cutoff_len": config["max_length"],
        "seed": config["seed"],
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": config["batch_size"] // micro,
        "learning_rate": config["learning_rate"],
        "num_train_epochs": 1.0,
        "logging_steps": 1,
        "report_to": "none",
        "include_num_input_tokens_seen": "non_padding",
        "use_cpu": device == "cpu",
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        **(four_bit if arm == "qlora" else {}),
    }


def main() -> None:
    """Train, in LLaMA-Factory's own environment."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llama_factory", description=__doc__)
    parser.add_argument("job", type=Path, help="file that Job.write wrote")
    parser.add_argument("arm", choices=["lora", "qlora"])
    parser.add_argument("folder", type=Path, help="output folder")
    args = parser.parse_args()
    import torch

    from benchmarks.stopwatch import Stopwatch

    job = read_json(args.job)
    write_json(
        args.folder / "pairs.json", [{"messages": pair["messages"]} for pair in job["pairs"]]
    )
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    write_json(
        args.folder / "dataset_info.json",
        {
            "pairs": {
                "file_name": "pairs.json",
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
                "tags": tags,
            }
        },
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    watch = Stopwatch(device)
    tuner = importlib.import_module(
        "llamafactory.train.tuner"
    )  # installed in that environment only
    tuner.run_exp(settings(job, args.arm, args.folder, device), callbacks=[watch])
    write_json(args.folder / "stamps.json", watch.to_record())


if __name__ == "__main__":
    main()
