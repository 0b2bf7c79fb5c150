"""The contender that is this product: the trainer that ``assistant-builder run`` trains with.

Imports torch: only child processes import this module.
"""

from __future__ import annotations

from pathlib import Path

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.config import Arm, StudyConfig
from assistant_builder.models import loading
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.planning.memory_check import plan_run
from assistant_builder.training.schedule import sample_order
from assistant_builder.training.sft_config import TrainingRun, twin
from assistant_builder.training.trainer import TwinTrainer
from evals.bench.job import Job
from evals.bench.ruler import Trained
from evals.bench.stopwatch import Stopwatch


def train(job: Job, arm: Arm, scratch: Path, watch: Stopwatch) -> Trained:
    """Train as the product's ``train-lora`` and ``train-qlora`` steps do.

    Args:
        job: What to train.
        arm: Over which base.
        scratch: Folder for what the trainer writes.
        watch: Stamps the steps.
    """
    settings = twin(StudyConfig(model=job.model, train=job.train))[arm]
    prompter = ChatTokenizer.load(job.folder)
    examples = job.examples(prompter)
    sequences = [(len(example.input_ids), sum(example.supervised)) for example in examples]
    order = sample_order([length for length, _ in sequences], job.train)
    # before the base takes memory that the plan counts as free
    method = plan_run(StudyConfig(model=job.model, train=job.train), job.folder, sequences, order).methods[arm]
    spec = loading.base_spec(job.model, job.folder, settings.base_storage)
    base = loading.load_base(spec)
    model = loading.add_adapter(base, job.train, job.train.seed)
    plan = TrainingRun(
        train=job.train, train_examples=examples,
        validation_examples=examples[:1],  # the trainer insists on a validation; it comes after the last stamp
        folder=scratch, device=spec.device, gradient_checkpointing=method.checkpointing, hold=method.held,
        cancelled=lambda: False, next_move=lambda step, losses: "train", on_step=lambda step, steps, eta: None,
    )
    trainer = TwinTrainer(model, plan, prompter)
    trainer.callback_handler.callbacks.insert(0, watch)  # before the callback that validates and saves
    trainer.run()
    steps = [event for event in read_jsonl(scratch / "metrics.jsonl") if event["event"] == "step"]
    return Trained(model, [event["loss"] for event in steps], [event["tokens"] for event in steps])
