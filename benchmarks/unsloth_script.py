"""``unsloth_script.py JOB ARM FOLDER``: what Unsloth's notebooks do, on the benchmark's job, in Unsloth's environment.

Unsloth replaces parts of transformers and TRL as it is imported and asks for releases of its own, so that it usually
has an environment of its own; of this repository the script needs the files alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def settings(job: dict[str, Any], arm: str) -> dict[str, dict[str, Any]]:
    """Arguments of ``from_pretrained``, ``get_peft_model`` and ``SFTConfig``."""
    train, dtype = job["train"], job["model"]["compute_dtype"]
    micro = min(train["micro_batch_size"], train["batch_size"])
    return {
        "load": {
            "model_name": job["folder"],
            "max_seq_length": train["max_length"],
            "load_in_4bit": arm == "qlora",
        },
        "adapt": {
            "r": train["rank"],
            "lora_alpha": train["alpha"],
            "lora_dropout": train["dropout"],
            "bias": "none",
            "target_modules": list(LAYERS),
            "use_gradient_checkpointing": "unsloth",
            "random_state": train["seed"],
        },
        "train": {
            "num_train_epochs": 1,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": train["batch_size"] // micro,
            "learning_rate": train["learning_rate"],
            "max_length": train["max_length"],
            "seed": train["seed"],
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "bf16": dtype == "bfloat16",
            "fp16": dtype == "float16",
        },
    }


def main() -> None:
    """Train, and write ``trained.json``: losses and tokens of each step, and the stopwatch's stamps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, help="file that Job.write wrote")
    parser.add_argument("arm", choices=["lora", "qlora"])
    parser.add_argument("folder", type=Path, help="where it writes")
    args = parser.parse_args()
    job = json.loads(args.job.read_text(encoding="utf-8"))
    asked = settings(job, args.arm)

    unsloth = importlib.import_module("unsloth")  # before transformers and trl
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(**asked["load"])
    model = unsloth.FastLanguageModel.get_peft_model(model, **asked["adapt"])
    stamps: list[float] = []

    class Watch(TrainerCallback):
        """Stamps the clock at the end of each step."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            """Start the clock."""
            torch.cuda.synchronize()
            stamps.append(time.perf_counter())

        on_step_end = on_train_begin

    rows = [pair["messages"] for pair in job["pairs"]]
    texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"text": texts}),
        callbacks=[Watch()],
        args=SFTConfig(output_dir=str(args.folder), dataset_text_field="text", **asked["train"]),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    size = job["train"]["batch_size"]
    # the order of the rows is the trainer's, so that a step's tokens are the mean
    tokens = [round(sum(lengths) * (step + 1) * size / len(lengths)) for step in range(len(logs))]
    (args.folder / "trained.json").write_text(
        json.dumps(
            {
                "losses": [entry["loss"] for entry in logs],
                "tokens": tokens,
                "watch": {
                    "stamps": [{"seconds": at, "own_cpu": 0.0, "busy_cpu": 0.0} for at in stamps],
                    "peak_memory_bytes": torch.cuda.max_memory_allocated(),
                },
            }
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
