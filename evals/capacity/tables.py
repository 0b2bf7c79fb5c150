"""The plan as Markdown tables, one function a part of ``evals/capacity/README.md``."""

from __future__ import annotations

from collections.abc import Sequence

from assistant_builder.planning.plan import Plan
from evals.capacity.assumptions import Assumptions
from evals.capacity.figures import Estimate, Interval
from evals.capacity.large import (
    DEVICES,
    GATHERED_PER_SECOND,
    ArmOnDevices,
    arms_on,
    checkpoint_bytes,
    download_bytes,
    plan_on,
)
from evals.capacity.limits import limits
from evals.capacity.measured import KINDS, STEPS, Measured
from evals.capacity.store import (
    Requests,
    a_second,
    kept_bytes,
    read_bytes,
    sources,
    study_requests,
    written_bytes,
)
from evals.report.format import count, duration, money, percent, plural, size, two_significant_digits
from evals.simulate.tables import table

NOT_MEASURED = (
    "Nothing has been measured yet: `python -m evals.capacity measure STUDY`, with the name of a study that has "
    "finished here, takes the figures, and `python -m evals.capacity --write` makes this table of them."
)
_PROFILES = {"even": "at any time alike", "office": "nine in ten from 8 to 18 o'clock"}


def assumptions_table(assumptions: Assumptions) -> str:
    """Every assumption with its value and its option."""
    return table(("assumption", "value", "option"), [
        (field.description or name, f"{getattr(assumptions, name)}", f"`--{name.replace('_', '-')}`")
        for name, field in Assumptions.model_fields.items()
    ])


def measured_table(measured: Measured) -> str:
    """What the plan starts from."""
    steps = table(("step", "seconds", "processors", "peak memory", "carries on after a loss from every"), [
        (name, f"{found.seconds:,.1f}", str(found.cpus) + (f" and {plural(found.gpus, 'GPU')}" if found.gpus else ""),
         size(found.peak_memory_bytes), duration(found.kept_seconds))
        for name in STEPS for found in [measured.steps[name]]
    ])
    files = table(("files of a study", "bytes"), [
        (kind + (" of one training" if kind in ("adapters", "checkpoints") else ""), size(measured.bytes[kind]))
        for kind in KINDS
    ])
    scheduling = "What Ray's scheduling costs was not measured, and counts as nothing."
    if measured.scheduling is not None:
        scheduling = (f"Ray's scheduling took {measured.scheduling.overhead_seconds_a_step:.2f} s of a slot for each "
                      f"step ({measured.scheduling.steps} steps on {plural(measured.scheduling.slots, 'slot')}).")
    return (
        f"{plural(measured.studies, 'study', 'studies')} of {measured.base} ({count(measured.pairs)} training pairs, "
        f"{count(measured.tokens)} tokens a training, {count(measured.heldout)} held-out pairs) on "
        f"{plural(measured.cores, 'core')}, device {measured.device}, {measured.compute_dtype}. {scheduling} A run "
        f"that watches takes {1e3 * measured.watching_seconds:.1f} ms of a processor a look; the home screen takes "
        f"{1e3 * measured.first_listing_seconds:.2f} ms a study at its first look and "
        f"{1e3 * measured.listing_seconds:.2f} ms at later ones.\n\n{steps}\n\n{files}"
    )


def queueing_table(rows: Sequence[tuple[str, Estimate]], assumptions: Assumptions) -> str:
    """Waiting, turnaround and cost of some clusters."""
    hour = assumptions.node_price
    return table(
        ("studies come", "nodes", "processors in use", "a step waits: half / 95 % / 99 % at most",
         "a study takes: half / 95 % / 99 % at most", f"done in {assumptions.goal_hours:g} h", "under way",
         "lost a day", "cost a day", "a study"),
        [
            (_PROFILES[profile], str(found.nodes), _share(found["utilisation"]), _times(found, "wait"),
             _times(found, "turnaround"), _share(found["within"]), f"{found['under_way'].mean:,.1f}",
             f"{found['losses_a_day'].mean:.2f}", money(24 * hour * found.nodes),
             money(24 * hour * found.nodes / assumptions.studies_a_day))
            for profile, found in rows
        ],
    )


def _share(interval: Interval) -> str:
    return f"{percent(interval.mean)} ± {100 * (interval.high - interval.mean):.1f}"


def _times(found: Estimate, name: str) -> str:
    return " / ".join(_time(found[f"{name}_{percentile}"]) for percentile in (50, 95, 99))


def _time(interval: Interval) -> str:
    minutes, half = interval.mean / 60, (interval.high - interval.mean) / 60
    return f"{minutes:,.1f} ± {half:,.1f} min"


def storage_table(measured: Measured, assumptions: Assumptions) -> str:
    """What stays on the shared store."""
    def row(name: str, study: float) -> tuple[str, ...]:
        day = study * assumptions.studies_a_day
        return name, size(study), _large(day), _large(365 * day)

    seeds = assumptions.seeds
    kinds = [row(kind, found) for kind, found in measured.study_bytes(seeds).items()]
    moved = (row("written on the way, checkpoints that go included", written_bytes(measured, seeds)),
             row("read: the base model, by each training and the evaluation", read_bytes(measured, seeds)))
    return table(("", "a study", "a day", "a year"), [
        *kinds, row("**all that stays**", kept_bytes(measured, seeds, checkpoints=True)),
        row("**without checkpoints**", kept_bytes(measured, seeds, checkpoints=False)), *moved,
    ])


def _large(count_of_bytes: float) -> str:
    return f"{count_of_bytes / 1e12:.3g} TB" if count_of_bytes >= 1e12 else size(count_of_bytes)


def requests_table(measured: Measured, assumptions: Assumptions) -> str:
    """Requests of the shared store, by what asks."""
    rows = []
    for source in sources(measured, assumptions):
        mean = a_second(source.study, assumptions.studies_a_day)
        rows.append((source.name, *_three(source.each), source.constant, *_three(mean)))
    every = a_second(study_requests(measured, assumptions), assumptions.studies_a_day)
    heads = ("what asks", "reads a second, each", "writes", "looks", "decided by", "reads a second, all", "writes",
             "looks")
    return table(heads, [*rows, ("**all**", "", "", "", "", *_three(every))])


def _three(requests: Requests) -> tuple[str, str, str]:
    reads, writes, looks = (two_significant_digits(value) for value in (requests.reads, requests.writes, requests.looks))
    return reads, writes, looks


def limits_table(measured: Measured, assumptions: Assumptions, nodes: int) -> str:
    """What gives way first."""
    rows = [
        (limit.name, ("at least " if limit.at_least else "") + _studies(limit.studies_a_day), limit.why, limit.source)
        for limit in limits(measured, assumptions, nodes)
    ]
    text = "| what gives way | from studies a day | why | source |\n| --- | ---: | --- | --- |\n"
    return text + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _studies(value: float) -> str:
    return two_significant_digits(value) if value < 10 else count(float(f"{value:.3g}"))


def large_table() -> str:
    """A 70B study on eight cards of two kinds."""
    arms = [arm for card in GATHERED_PER_SECOND for arm in arms_on(card)]
    plans = {card: plan_on(card) for card in GATHERED_PER_SECOND}
    largest = max(arm.adapter_bytes for arm in arms)
    kept = len({arm.method for arm in arms}) * (largest + 2 * checkpoint_bytes(largest))
    rows = table(
        ("arm", "cards", "shared by", "memory a card", "fits", "activations", "time at best",
         "gathering weights besides", "cost at best"),
        [(_ARMS[arm.method], f"{DEVICES} × {arm.card}", arm.spread.upper(), size(arm.device_bytes), _FITS[arm.fit],
          "recomputed" if arm.checkpointing else "kept", duration(arm.seconds), duration(arm.gather_seconds),
          f"${money(arm.cost)}") for arm in arms],
    )
    return f"{_settings(plans)}\n\n{rows}\n\n{_both(arms, plans)} {_storage(largest, kept)}"


_ARMS = {"lora": "float16 LoRA", "qlora": "4-bit QLoRA"}
_FITS = {"room": "with room", "tight": "barely", "no": "no"}


def _settings(plans: dict[str, Plan]) -> str:
    plan = next(iter(plans.values()))
    work, train = plan.lora.work, plan.config.train
    return (f"{plan.model}, {count(plan.pairs)} pairs of {plan.lengths.mean:g} tokens on average, {train.epochs:g} "
            f"epochs, {count(work.steps)} steps of {train.batch_size} pairs, rank {train.rank}; all other settings as "
            "they come.")


def _both(arms: Sequence[ArmOnDevices], plans: dict[str, Plan]) -> str:
    parts = []
    for card in plans:
        here = [arm for arm in arms if arm.card == card]
        parts.append(f"{duration(sum(arm.seconds for arm in here))} and ${money(sum(arm.cost for arm in here))} "
                     f"on {DEVICES} × {card} (${plans[card].machine.price_per_hour:g} a card and hour)")
    return "One arm after the other, that is at best " + ", or ".join(parts) + "."


def _storage(adapter: int, kept: int) -> str:
    return (f"The download is {size(download_bytes())}, which every training and the evaluation read. An adapter "
            f"takes {size(adapter)}, a checkpoint {size(checkpoint_bytes(adapter))}; with the last and the best "
            f"checkpoint of each arm a study leaves {size(kept)} beside its scores.")
