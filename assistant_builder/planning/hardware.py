"""Machines that a plan can be made for: this one and a catalog of GPUs. Does not import torch."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Literal

import psutil

from assistant_builder import devices
from assistant_builder.child_process import usable_cores
from assistant_builder.devices import computes_bfloat16
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import Message, Text, m, mn, written

_UNITS = {"": 1, "b": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_MIG_SLICES = 7  # compute slices of a card with MIG
# memory limit of a container in cgroup v2 and v1, which psutil does not report
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Machine:
    """A machine that can train; memory is that of one device."""

    name: str
    device: Literal["cpu", "cuda"]
    memory_bytes: int
    free_bytes: int  # all memory for a catalog entry
    bfloat16: bool = True
    flops: float = 0.0  # dense 16-bit peak per second, a multiply-add is two; 0: unknown
    price_per_hour: float | None = None  # list price in US dollars, if for rent
    is_local: bool = False  # whether it is this machine
    cores: int = 0  # usable cores of a CPU
    devices: int = 1  # usable GPUs of this type
    # all usable GPUs in torch's order; this object describes the first
    cards: tuple[Machine, ...] = ()
    label: Message | None = None

    @property
    def title(self) -> Text:
        """Its name as a message."""
        return self.label or self.name

    @property
    def compute_dtype(self) -> str:
        """The dtype that ``model.compute_dtype=auto`` selects on this machine."""
        if self.bfloat16:
            return "bfloat16"
        return "float16" if self.device == "cuda" else "float32"

    def with_devices(self, devices: int) -> Machine:
        """Return a machine with the smallest memory and features of the first ``devices`` cards."""
        used = self.cards[:devices]
        if not used:
            return self
        names = list(dict.fromkeys(card.name for card in used))
        return replace(
            self,
            name=" and ".join(names),
            memory_bytes=min(card.memory_bytes for card in used),
            free_bytes=min(card.free_bytes for card in used),
            bfloat16=all(card.bfloat16 for card in used),
            flops=min(card.flops for card in used),
        )

    def with_memory(self, memory_bytes: int) -> Machine:
        """Return this machine with another amount of memory."""
        name = f"{self.name}, {memory_bytes / 1e9:.3g} GB"
        label = self.label and m(
            "{machine}, {memory}", machine=self.label, memory=name[len(self.name) + 2 :]
        )
        return replace(
            self,
            name=name,
            label=label,
            memory_bytes=memory_bytes,
            free_bytes=memory_bytes,
            cards=(),
        )


def _card(
    name: str, gigabytes: float, teraflops: float, price: float | None, *, bfloat16: bool = True
) -> Machine:
    return Machine(
        name, "cuda", int(gigabytes * 1e9), int(gigabytes * 1e9), bfloat16, teraflops * 1e12, price
    )


CARDS: dict[str, Machine] = {
    card.name: card
    for card in (
        _card("T4 16 GB", 15.6, 65, 0.53, bfloat16=False),
        _card("V100 16 GB", 16.9, 112, 3.06, bfloat16=False),
        _card("RTX 3060 12 GB", 12.6, 25, None),
        _card("RTX 3090 24 GB", 25.3, 71, 0.46),
        _card("RTX 4090 24 GB", 25.3, 165, 0.69),
        _card("RTX 5090 32 GB", 33.7, 209, 0.89),
        _card("L4 24 GB", 23.6, 121, 0.80),
        _card("A10G 24 GB", 23.7, 70, 1.01),
        _card("RTX A6000 48 GB", 50.9, 155, 0.79),
        _card("L40S 48 GB", 47.7, 362, 1.86),
        _card("A100 40 GB", 42.3, 312, 1.29),
        _card("A100 80 GB", 85.1, 312, 1.79),
        _card("H100 80 GB", 85.0, 989, 2.99),
        _card("H200 141 GB", 150.1, 989, 3.79),
        _card("B200 180 GB", 191.5, 2250, 5.74),
    )
}
"""Common cards: memory as reported by the driver, dense bfloat16 (else float16) peak from the data sheet, and the
on-demand price of an hour in a common cloud. Prices differ up to three-fold between clouds, so users can change them
wherever they are shown."""


def this_machine() -> Machine:
    """Return the device that training would use: the first GPU that torch sees, else the CPU."""
    if gpu := _gpu():
        return gpu
    memory, cores = psutil.virtual_memory(), usable_cores()
    total = min(memory.total, _container_limit() or memory.total)
    label = mn(
        "this computer's processor ({count} core)",
        "this computer's processor ({count} cores)",
        cores,
    )
    free, name = min(memory.available, total), written(label)[0]
    return Machine(
        name, "cpu", total, free, computes_bfloat16(), is_local=True, cores=cores, label=label
    )


def choose_machine(memory: str | None = None, card: str | None = None) -> Machine:
    """Return a card of the catalog, a GPU with the given memory, or this machine.

    Raises:
        ConfigError: The card is unknown or the memory cannot be parsed.
    """
    if card is not None:
        wanted = _normalized(card)
        names = [name for name in CARDS if wanted and wanted in _normalized(name)]
        if not names:
            raise ConfigError(
                m("no card {card!r} in the catalog", card=card),
                where="--card",
                remedy=m("Use one of {cards}; or use --memory", cards=", ".join(CARDS)),
            )
        exact = [name for name in names if _normalized(name) == wanted]
        chosen = CARDS[(exact or names)[0]]
        return chosen if memory is None else chosen.with_memory(parse_memory(memory))
    if memory is None:
        return this_machine()
    size = parse_memory(memory)
    return Machine(f"a GPU with {size / 1e9:.3g} GB", "cuda", size, size)


def _normalized(name: str) -> str:
    return name.casefold().replace(" ", "").replace("-", "")


def parse_memory(text: str) -> int:
    """Parse ``24GB``, ``24 GiB`` or ``24`` (gigabytes) to bytes.

    Raises:
        ConfigError: The text is not an amount of memory.
    """
    amount = re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?)\s*([a-z]*)", text.strip().casefold())
    if amount is None or amount[2] not in _UNITS or not float(amount[1]):
        raise ConfigError(
            m("{text!r} is not an amount of memory", text=text),
            where="--memory",
            remedy=m("Write it like 24GB or 16GiB"),
        )
    return int(float(amount[1]) * _UNITS[amount[2] or "gb"])


def _gpu() -> Machine | None:
    usable = devices.detect_gpus().usable
    if not usable:
        return None
    cards = []
    for gpu, free in zip(usable, devices.free_bytes(usable), strict=True):
        peak = _peak_flops(gpu.name)
        size = gpu.memory_bytes
        cards.append(Machine(gpu.name, "cuda", size, free, gpu.bfloat16, peak, is_local=True))
    alike = len(list(takewhile(lambda card: card.name == cards[0].name, cards)))
    return replace(cards[0], devices=alike, cards=tuple(cards))


def _peak_flops(name: str) -> float:
    # peak of the catalog card whose model is part of the driver's name; the share of it for a MIG instance
    driver_name = name.casefold()
    part = re.search(r"\bmig (\d)g\.", driver_name)
    for card in sorted(CARDS.values(), key=lambda card: -len(card.name)):
        model = card.name.rsplit(" ", 2)[0].casefold()
        if re.search(rf"{model}\b", driver_name):  # A1000 is not A100
            return card.flops * (int(part[1]) / _MIG_SLICES if part else 1)
    return 0.0


def _container_limit() -> int | None:
    for path in _LIMITS:
        try:
            return int(path.read_text(encoding="ascii"))
        except (OSError, ValueError):  # "max": no limit
            continue
    return None


_SIZE = 768
_REPEATS = 4
_BFLOAT16_GAIN = 2.0  # speed of bfloat16 instructions relative to float32


@lru_cache(maxsize=2)
def _processor_flops(cores: int, bfloat16: bool) -> float:
    # takes less than 0.1 seconds; CPU time of one thread, so that other programs do not affect the result: threads that
    # wait for each other take processor time, too
    import numpy as np
    from threadpoolctl import threadpool_limits

    matrix = np.ones((_SIZE, _SIZE), dtype=np.float32)
    best = 0.0
    with threadpool_limits(1):
        for _ in range(_REPEATS):
            started = time.process_time()
            matrix @ matrix
            best = max(best, 2 * _SIZE**3 / max(time.process_time() - started, 1e-6))
    return best * cores * (_BFLOAT16_GAIN if bfloat16 else 1.0)


def with_speed(machine: Machine) -> Machine:
    """Return this machine's CPU with its measured peak, and any other machine unchanged."""
    if not machine.is_local or machine.device != "cpu":
        return machine
    return replace(machine, flops=_processor_flops(machine.cores, machine.bfloat16))
