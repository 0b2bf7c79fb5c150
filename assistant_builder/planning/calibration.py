"""How fast this processor multiplies, told from a product of two matrices: a first guess until a run has finished."""

from __future__ import annotations

import time
from functools import lru_cache

_SIZE = 768
_REPEATS = 4
_BFLOAT16_GAIN = 2.0
"""bfloat16 instructions multiply twice as many values at a time as float32 ones."""


@lru_cache(maxsize=2)
def processor_flops(cores: int, bfloat16: bool) -> float:
    """Operations a second of all cores in the compute dtype, the best of a few products; takes under 0.1 seconds.

    Processor time counts, not wall time, so that what else runs at the moment does not make the machine look slow.

    Args:
        cores: Usable cores.
        bfloat16: Whether they compute in bfloat16.
    """
    import numpy as np

    matrix = np.ones((_SIZE, _SIZE), dtype=np.float32)
    best = 0.0
    for _ in range(_REPEATS):
        started = time.process_time()
        matrix @ matrix
        best = max(best, 2 * _SIZE**3 / max(time.process_time() - started, 1e-6))
    return best * cores * (_BFLOAT16_GAIN if bfloat16 else 1.0)
