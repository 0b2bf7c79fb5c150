"""Random draws for resampling and permutation tests, in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray

Draw = Callable[[np.random.Generator, int, int], NDArray[Any]]
Draws = Callable[[int, int, int], Iterable[NDArray[Any]]]


def in_pieces(most: int, *, keep: int = 4) -> Callable[[Draw], Draws]:
    """Decorate ``draw(rng, rows, count)`` to become ``draws(count, total, seed)``: pieces of ``total`` rows.

    The last few are kept, because the metrics of a report, and simulated held-out sets, have the same number of units.

    Args:
        most: Largest number of values of a piece, and of what is kept.
        keep: Number of draws that are kept.
    """

    def decorate(draw: Draw) -> Draws:
        def drawn(count: int, total: int, seed: int) -> Iterator[NDArray[Any]]:
            rng = np.random.default_rng(seed)
            at_once = max(1, most // count)
            for start in range(0, total, at_once):
                yield draw(rng, min(at_once, total - start), count)

        kept = lru_cache(maxsize=keep)(lambda *key: tuple(drawn(*key)))

        @wraps(draw)
        def draws(count: int, total: int, seed: int) -> Iterable[NDArray[Any]]:
            return (kept if count * total <= most else drawn)(count, total, seed)

        return draws

    return decorate
