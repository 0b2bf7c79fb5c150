"""The importance matrix of an assistant: how large what each column of its matrices is multiplied by usually is.

It is measured on training rows of the study, facts included, with the merged model in PyTorch, as llama.cpp's
``llama-imatrix`` does on a text. The output and embedding matrices are left out, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assistant_builder.data import Pair, load_split
from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.quantization.gguf import Importance, Report
from assistant_builder.retrieval.grounding import Grounder, grounded_pairs, read_contexts
from assistant_builder.study import Study
from assistant_builder.study.limits import pair_limit
from evals.work_items import evenly_spaced

ROWS = 64
"""Most training rows that are read, evenly spread over all."""


class NotMeasured(ModelError):
    """The importance matrix of a model cannot be measured."""


def importance_rows(study: Study, prompter: ChatTokenizer) -> list[tuple[int, ...]]:
    """The tokens of at most 64 training sequences, prompt and answer, as the study trains on them."""
    config = study.config
    pairs: Sequence[Pair] = load_split(study.folder / "data", "train")
    if config.grounded:
        contexts = read_contexts(study.retrieval_folder, "train")
        pairs = list(
            grounded_pairs(pairs, contexts, Grounder.of(study, prompter), None, pair_limit(study))
        )
    chosen = evenly_spaced(pairs, ROWS)
    return [
        example.input_ids
        for pair in chosen
        for example in prompter.examples(pair, pair_limit(study))
    ][:ROWS]


def importance_matrix(
    checkpoint: Path, architecture: str, rows: Sequence[Sequence[int]], dtype: str, report: Report
) -> Importance:
    """Measure the mean square of each input column of each linear layer; imports torch.

    Args:
        checkpoint: Folder of the merged model.
        architecture: llama.cpp's name of its architecture.
        rows: Token ids.
        dtype: Compute dtype.
        report: Progress callback; an exception from it cancels the work.

    Returns:
        Weights by the names of the tensors in a GGUF file.

    Raises:
        NotMeasured: transformers cannot load the model without code of its own, or llama.cpp has other names for it.
    """
    import torch
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoModelForCausalLM

    from assistant_builder.models import loading

    arch = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    try:
        if arch is None:
            raise ValueError(f"the package gguf does not know the architecture {architecture}")
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            dtype=loading.DTYPES[dtype],
            device_map={"": loading.pick_device()},
            local_files_only=True,
            use_safetensors=True,
        ).eval()
    except (ValueError, KeyError) as error:
        raise NotMeasured(
            m("its importance matrix cannot be measured: {error}", error=str(error)[:300]),
            where=str(checkpoint),
            remedy=m("Write the file without an importance matrix"),
        ) from error
    names = get_tensor_name_map(arch, model.config.get_text_config().num_hidden_layers)
    sums: dict[str, Any] = {}

    def watch(name: str, module: Any) -> Any:
        def add(_: Any, inputs: tuple[Any, ...]) -> None:
            squares = inputs[0].detach().flatten(0, -2).double().square().sum(dim=0)
            sums[name] = sums[name] + squares if name in sums else squares

        return module.register_forward_pre_hook(add)

    head = model.get_output_embeddings()
    hooks = [
        watch(found, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and (found := names.get_name(f"{name}.weight", try_suffixes=(".weight",))) is not None
    ]
    try:
        with torch.no_grad():
            for place, ids in enumerate(rows):
                report(place / len(rows), m("Measuring the importance matrix on training rows"))
                model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if not sums:
        raise NotMeasured(
            m(
                "its importance matrix cannot be measured: llama.cpp has other names for all of its matrices"
            ),
            where=str(checkpoint),
            remedy=m("Write the file without an importance matrix"),
        )
    tokens = sum(map(len, rows))
    return {name: (total / tokens).float().cpu().numpy() for name, total in sums.items()}
