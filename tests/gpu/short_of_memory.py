"""``python short_of_memory.py LIMITS.json MODULE WORDS…``: run a module with little free memory after some loads.

On a GPU the limit is real (``torch.cuda.set_per_process_memory_fraction``). On a CPU the calls that would then run out
of memory raise what they raise on a GPU: loading a base, the backward pass, distributions over the vocabulary.
"""

import gc
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from assistant_builder.child_process import configure_libraries

configure_libraries()

import torch  # noqa: E402 - after the libraries' settings
from transformers import AutoModelForCausalLM  # noqa: E402

from assistant_builder.models import loading  # noqa: E402


def ran_out(*words: Any, **options: Any) -> Any:
    """Replacement of an operation that runs out of memory."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB (limited by the suite)"
    )


def limit(device: str, spare_bytes: int) -> None:
    """Limit this process to ``spare_bytes`` more than it uses now."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, (torch.cuda.memory_reserved() + spare_bytes) / total)
        )
    else:
        AutoModelForCausalLM.from_pretrained = ran_out
        torch.Tensor.backward = ran_out
        torch.log_softmax = ran_out


def main() -> None:
    """Count the loads, then run the module as ``python -m`` would."""
    limits = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    load_base, loaded = loading.load_base, 0

    def counted(spec: Any) -> Any:
        nonlocal loaded
        model = load_base(spec)
        loaded += 1
        if loaded == limits["loads"]:
            limit(limits["device"], limits["spare_bytes"])
        return model

    loading.load_base = counted
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
