"""Training of one arm in its own process: load the base, attach adapters, train, publish the best checkpoint.

Torch is imported inside functions.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import file_hash, write_json
from assistant_builder.child_process import peak_memory_bytes
from assistant_builder.config import StudyConfig
from assistant_builder.devices import device_name
from assistant_builder.error_translation import ran_out_of_memory
from assistant_builder.errors import Cancelled, ConfigError, ResourceError
from assistant_builder.i18n import m, mn
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.fetch import fetch
from assistant_builder.models.remote_code import allows_code
from assistant_builder.planning.hardware import Machine, this_machine
from assistant_builder.planning.memory import ParallelStrategy, devices_to_use
from assistant_builder.planning.memory_check import (
    plan_run,
    prediction,
    require_device,
    require_fit,
    write_plan,
)
from assistant_builder.planning.plan import MethodPlan, Plan, choose_parallelism
from assistant_builder.study import Study
from assistant_builder.study.steps import Progress, continued_run, split_run
from assistant_builder.training import checkpoints
from assistant_builder.training.joint_stop import schedule_hash, stop_loss, stop_of_others
from assistant_builder.training.micro_batch import (
    MicroBatchTooLarge,
    plan_with_micro_batch,
    record_fewer_pairs,
)
from assistant_builder.training.sample_generations import choose_samples
from assistant_builder.training.schedule import best_step, sample_order
from assistant_builder.training.sequences import Sequences, load_sequences
from assistant_builder.training.sft_config import ArmConfig, twin

if TYPE_CHECKING:
    from assistant_builder.training.trainer import TwinTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _TrainingInputs:
    config: StudyConfig  # with ``train.micro_batch_size`` per device, and ``train.max_length`` as a number
    base: Path
    base_name: str  # name of the base model in ``adapter_config.json``
    prompter: ChatTokenizer
    train: Sequences
    validation: Sequences
    planned: Plan
    spread: ParallelStrategy
    before: StudyConfig  # before the number of pairs per pass was chosen


def train_arm(study: Study, run: str) -> Iterable[Path] | None:
    """Train an arm, or resume its training, on the devices that settings and planner determine.

    ``run`` is ``lora`` or ``qlora``, or ``lora-2`` for the second seed.

    Returns:
        The written files; None if the arm has to wait for the one that decides when their trainings end.

    Raises:
        Cancelled: The user cancelled; a checkpoint of the last step exists.
        ConfigError: The settings need a GPU.
        DataError: Most rows are longer than ``train.max_length`` or the context of the base.
        ResourceError: The training does not fit the memory of this machine, or devices are missing.
    """
    while True:
        study.write_progress(
            f"train-{run}", Progress.saying(0, 1, "steps", m("Loading the base model"))
        )
        prepared = _prepare(study)
        require_fit(prepared.planned, split_run(run)[0])
        try:
            if prepared.spread.devices == 1:
                _require_planned_device(prepared.planned.machine)
                return _train(study, run, prepared)
            from assistant_builder.training.distributed import train_distributed

            spread, planned = prepared.spread, prepared.planned
            return train_distributed(train_in_process, study, run, spread, planned)
        except MicroBatchTooLarge:
            pass
        _choose_fewer_pairs(study, prepared)  # after the exception, which keeps the model


def _choose_fewer_pairs(study: Study, prepared: _TrainingInputs) -> None:
    rows = prepared.config.train.micro_batch
    fewer = record_fewer_pairs(study, prepared.before, prepared.spread.devices, rows)
    if fewer is None:
        raise ResourceError(
            mn(
                "memory ran out with {count} pair per pass",
                "memory ran out with {count} pairs per pass",
                rows,
            ),
            where=prepared.planned.machine.name,
            remedy=m(
                "Lower {train.max_length}, set {train.gradient_checkpointing=on}, or choose a smaller base model; then "
                "run again"
            )
            if rows == 1
            else m(
                "Lower {train.micro_batch_size}, which is {rows}, or {train.max_length}, set "
                "{train.gradient_checkpointing=on}, or choose a smaller base model; then run again",
                rows=rows,
            ),
        )
    logger.warning(
        "Memory ran out with %d pairs per pass; the training goes on with %d", rows, fewer
    )
    import torch

    from assistant_builder.models.loading import free_memory

    free_memory()
    if torch.cuda.is_available():  # the peak is that of the training that fits
        torch.cuda.reset_peak_memory_stats()


def train_in_process(
    study: Study, run: str, spread: ParallelStrategy, planned: Plan | None = None
) -> Iterable[Path] | None:
    """The share of one of several processes in a training; see :func:`train_arm`.

    Without the plan of the launching process it is computed here. Plans of several processes may differ, because the
    free memory differs, and processes that disagree on recomputing activations deadlock.
    """
    import torch

    if torch.cuda.is_available():  # before the first allocation: by default all processes use GPU 0
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    prepared = _prepare(study, spread, planned)
    _require_planned_device(prepared.planned.machine)
    return _train(study, run, prepared)


def _prepare(
    study: Study, spread: ParallelStrategy | None = None, planned: Plan | None = None
) -> _TrainingInputs:
    # load tokenizer and data; compute the plan and the parallel strategy if they are not given
    config = planned.config if planned else study.config
    machine = planned.machine if planned else this_machine()
    require_device(config, machine.device)
    ref = resolve(config.model.base, trust_remote_code=allows_code(config.model))
    base = fetch(ref, revision=config.model.revision, trust_remote_code=allows_code(config.model))
    prompter = ChatTokenizer.load(base, study.record_template_date())
    training = load_sequences(study, "train", prompter)
    validation = load_sequences(study, "validation", prompter)
    if config.train.max_length == "auto":
        longest = min(max(training.longest, validation.longest), prompter.context)
        config = config.with_changes({"train.max_length": longest})
    before = config
    if spread is None or planned is None:
        devices = spread.devices if spread else devices_to_use(config, machine)
        machine = machine.with_devices(devices)
        examples = training.examples
        sequences = [(len(each.input_ids), sum(each.supervised)) for each in examples]
        order = sample_order([length for length, _ in sequences], config.train)

        def plan(changed: StudyConfig) -> Plan:
            return plan_run(changed, base, sequences, order, machine)

        planned = plan_with_micro_batch(study, config, devices, machine.device, plan)
        config = planned.config
        # or each would choose its own compute dtype
        if len({card.bfloat16 for card in machine.cards[:devices]}) > 1:
            config = config.with_changes({"model.compute_dtype": planned.compute_dtype})
        spread = spread or choose_parallelism(planned, devices)
        planned = replace(planned, config=config, shards=spread.shards)
    name = ref.hub_id or ref.name
    return _TrainingInputs(
        config, base, name, prompter, training, validation, planned, spread, before
    )


def _require_planned_device(machine: Machine) -> None:
    # refuse to train on another kind of device than planned, because memory and arithmetic differ
    from assistant_builder.models.loading import pick_device

    device = pick_device()
    if device != machine.device:
        names = {"cpu": "the processor", "cuda": "a GPU"}
        raise ResourceError(
            m(
                "the training was planned for {name}, but PyTorch uses {names}",
                name=machine.name,
                names=names[device],
            ),
            remedy=m(
                "Run it again; if the error persists, check the line 'gpu' of 'assistant-builder doctor'"
            ),
        )


def _train(study: Study, run: str, prepared: _TrainingInputs) -> Iterable[Path] | None:
    from assistant_builder.models import loading
    from assistant_builder.models.lora_layers import train_through_rounding

    config, spread, examples = prepared.config, prepared.spread, prepared.train.examples
    arm, seed = split_run(run)
    settings = twin(config, seed)[arm]
    # a process would need the whole adapter of a layer to round it
    if ARMS[arm].rounds and spread.kind == "fsdp":
        raise ConfigError(
            m("{short} cannot be trained on sharded weights", short=ARMS[arm].short),
            where="executor.spread",
            remedy=m("Set executor.spread=ddp or executor.devices=1, or leave the arm out"),
        )
    folder = study.arm_folder(run)
    loss, schedule = stop_loss(config), schedule_hash(settings.train, prepared.train)
    stop = stop_of_others(study, run, schedule) if loss else "decide"
    if stop == "wait":
        return None
    method = prepared.planned.methods[arm]
    spec = loading.base_spec(config.model, prepared.base, settings.base_storage)
    spec = replace(spec, sharded=spread.kind == "fsdp")
    on_leader = loading.loads_on_main_process(spec)
    if spec.sharded:
        from assistant_builder.training.distributed import start_fsdp

        start_fsdp(spec.device, on_leader=on_leader)
    model = loading.load_base(spec)
    base_bytes = loading.model_bytes(model)
    adapted = loading.add_adapter(model, settings.train, settings.train.seed)
    adapted.peft_config["default"].base_model_name_or_path = prepared.base_name
    if (before := continued_run(run, config.arms)) is not None:
        loading.start_from(adapted, study.arm_folder(before) / "adapter")
    if ARMS[arm].rounds:
        train_through_rounding(adapted, settings.train.qat_type)
    trainable = [value for value in adapted.parameters() if value.requires_grad]
    how = {
        "compute_dtype": spec.compute_dtype,
        "device": spec.device,
        "devices": spread.devices,
        "spread": spread.kind,
    }
    summary = {
        "arm": arm,
        "base_storage": settings.base_storage,
        **how,
        "device_name": device_name(spec.device),
        "seed": settings.train.seed,
        "gradient_checkpointing": method.checkpointing,
        "held": method.dequantized,
        "base_bytes": base_bytes,
        "adapter_bytes": sum(value.nbytes for value in trainable),
        "trainable_parameters": sum(value.numel() for value in trainable),
        "total_parameters": loading.count_parameters(model),
        "train_pairs": len(examples),
        "max_length": config.train.max_length,
        "left_out": {**prepared.validation.too_long, **prepared.train.too_long},
    }
    trainer = _trainer(study, run, settings, adapted, prepared, spec.device, method, on_leader)
    trainer.end_by(loss, None if stop == "decide" else stop)
    if trainer.is_main_process:
        print(
            f"Training {run} on {summary['device_name']} ({spec.device}) in {spec.compute_dtype}, "
            f"{config.train.micro_batch} pairs per pass",
            file=sys.stderr,
            flush=True,
        )
        content = {"arm": arm, **settings.model_dump(mode="json"), **how}
        write_json(folder / "config.json", content)
        write_plan(folder, prepared.planned, arm, trainer.plan.work(trainer.end))
    steps, reached = trainer.end, trainer.start
    if reached < steps:
        try:
            trainer.run()
        except Exception as error:
            # with several processes, the others would wait for this one
            if spec.device != "cuda" or spread.devices > 1 or not ran_out_of_memory(error):
                raise
            raise MicroBatchTooLarge from error
        reached = trainer.state.global_step
    if trainer.broadcast_from_main(study.cancel_requested):
        raise Cancelled(m("cancelled on request"))
    summary |= {
        "steps": reached,
        "epochs": reached * config.train.batch_size / len(examples),
        "tokens": trainer.metrics.tokens,
        "train_seconds": trainer.metrics.elapsed,
        "tokens_per_second": trainer.metrics.tokens / trainer.metrics.busy,
        "peak_memory_bytes": trainer.all_reduce_max(peak_memory_bytes(spec.device)),
        "predicted": prediction(prepared.planned, arm, reached / trainer.plan.steps),
    }
    if loss:
        summary["stop"] = {
            "after": trainer.stop.after if trainer.stop else None,
            "of": trainer.plan.steps,
            "schedule": schedule,
        }
    if not trainer.is_main_process:
        return []
    return _publish(folder, trainer, summary, last=config.grounded)


def _trainer(
    study: Study,
    run: str,
    settings: ArmConfig,
    model: Any,
    prepared: _TrainingInputs,
    device: str,
    method: MethodPlan,
    on_leader: bool,
) -> TwinTrainer:
    from assistant_builder.training.sft_config import TrainingRun
    from assistant_builder.training.trainer import TwinTrainer

    train = settings.train

    def on_step(step: int, steps: int, eta: float | None) -> None:
        study.write_progress(
            f"train-{run}", Progress.saying(step, steps, "steps", m("Training {run}", run=run), eta)
        )

    plan = TrainingRun(
        train=train,
        train_examples=prepared.train.examples,
        validation_examples=prepared.validation.examples,
        folder=study.arm_folder(run),
        device=device,
        gradient_checkpointing=method.checkpointing,
        # rounding starts from float16
        dequantize=method.dequantized and not ARMS[split_run(run)[0]].rounds,
        spread=prepared.spread,
        on_leader=on_leader,
        cancelled=lambda: study.cancel_requested,
        on_step=on_step,
        samples=choose_samples(
            prepared.validation.pairs, prepared.prompter, train.sample_answers, train.assumed_length
        ),
    )
    return TwinTrainer(model, plan, prepared.prompter)


def _publish(
    folder: Path, trainer: TwinTrainer, summary: dict[str, Any], *, last: bool
) -> list[Path]:
    # copy the adapter with the lowest validation loss, or the last one, to ``adapter/`` and write ``summary.json``. A
    # grounded study publishes the last one: its rule for declining is calibrated on the validation questions, by
    # which no checkpoint may then be chosen, and a few questions whose fact was not found decide their loss.
    validations = trainer.metrics.validation.items()
    losses = {step: loss for step, loss in validations if step <= summary["steps"]}
    best = max(losses, default=None) if last else best_step(losses)
    assert best is not None  # the last step is always validated
    source = checkpoints.checkpoint_folder(folder / "checkpoints", best)
    for abandoned in folder.glob(".adapter-*"):  # by a process that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".adapter-"))
    files = ("adapter_model.safetensors", "adapter_config.json")
    for name in files:
        shutil.copyfile(source / name, scratch / name)
    scratch.chmod(0o755)
    target = folder / "adapter"
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
    summary |= {
        "best_step": best,
        "best_validation_loss": losses[best],
        "adapter_sha256": file_hash(target / "adapter_model.safetensors"),
    }
    write_json(folder / "summary.json", summary)
    return [*(target / name for name in files), folder / "summary.json"]
