"""A base model small enough to be made, tuned, merged and loaded in a test: two layers, bytes for tokens."""

from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.data import load_split
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.study import Study
from tests.synthetic_study import done, new_study, with_data
from tests.tiny_models import as_if_trained, byte_tokenizer

SPECIALS = ("<|im_start|>", "<|im_end|>")
SCORED = ("Q4", "L16", "QD", "LM", "QR", "LR")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_base(folder: Path) -> Path:
    """Write config, float16 weights, tokenizer and chat template of a Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(SPECIALS, template=CHATML)
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            initializer_range=0.2,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    model.to(torch.float16).save_pretrained(str(folder))
    return folder


def tiny_study(
    base: Path, name: str = "tiny", *, seed: int = 0, system: str | None = None, **changes: Any
) -> Study:
    """A study whose two adapters hold random values, other ones with each seed; nothing was trained.

    ``changes`` are dotted keys with ``__`` for the dot.
    """
    from assistant_builder.models.loading import BaseSpec, add_adapter, count_parameters, load_base

    study = with_data(
        new_study(
            name,
            train__rank=4,
            data__max_heldout=6,
            model__base=str(base),
            data__system=system,
            **changes,
        )
    )
    for own, arm in enumerate(("lora", "qlora"), start=seed):
        model = load_base(BaseSpec(base, "float16", True, "bfloat16"))
        adapted = add_adapter(model, study.config.train, own)
        as_if_trained(adapted, 0.05, own)
        folder = study.arm_folder(arm)
        adapted.save_pretrained(str(folder / "adapter"))
        trainable = sum(value.numel() for value in adapted.parameters() if value.requires_grad)
        write_json(
            folder / "summary.json",
            {
                "adapter_bytes": 4 * trainable,
                "trainable_parameters": trainable,
                "total_parameters": count_parameters(model),
                "steps": 6,
                "epochs": 1.0,
                "best_step": 6,
                "train_seconds": 12.0,
                "compute_dtype": changes.get("model__compute_dtype", "bfloat16"),
                "base_storage": "float16" if arm == "lora" else "nf4",
                "adapter_sha256": file_hash(folder / "adapter" / "adapter_model.safetensors"),
            },
        )
        done(study, f"train-{arm}", 12.0)
    return study


def scored(study: Study, base: Path, retriever: Any = None) -> Study:
    """Score the cells that exports stand for, as the evaluation does; no answers are generated."""
    from assistant_builder.arms import CELLS
    from evals.cells import Variant, load_cells
    from evals.lm_eval_model import StudyLM
    from evals.records import sample_record, write_scores
    from evals.tasks.held_out import build_items, write_tasks

    prompter = ChatTokenizer.load(base)
    items = build_items(load_split(study.folder / "data", "heldout"), prompter, retriever)
    tasks = write_tasks(study, items)
    for cell in load_cells(study, base, [Variant(CELLS[name]) for name in SCORED]):
        lm = StudyLM(
            cell.model,
            prompter,
            own_tasks=(),
            batch_size=16,
            max_new_tokens=8,
            tick=lambda *_: None,
        )
        targets = lm.score_targets([(item["prompt"], item["target"]) for item in items])
        samples = [
            sample_record(item, answer="", target=target, scores={}, taught=())
            for item, target in zip(items, targets, strict=True)
        ]
        adapter = read_json(study.arm_folder(cell.spec.adapter or "") / "summary.json")[
            "adapter_sha256"
        ]
        write_scores(
            study.cell_folder(cell.spec.name),
            samples,
            {"compute_dtype": cell.compute_dtype},
            {"adapter": adapter, "items": file_hash(tasks.folder / "items.jsonl")},
        )
    return study
