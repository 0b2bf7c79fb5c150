"""The parts of a study's settings: each option with its default, bounds and help text.

``Field(title=…)`` is the label, ``description`` the help text; ``json_schema_extra={"level": "basic"}`` marks what the
page shows without opening the advanced pane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator

from assistant_builder.registry import find_registry

Cell = Literal["B16", "B4", "L16", "Q4", "L4", "Q16", "QD", "QR", "LM", "LR"]
CELLS: tuple[Cell, ...] = get_args(Cell)
ComputeDtype = Literal["auto", "bfloat16", "float16", "float32"]
Arm = Literal["lora", "qlora"]
ARMS: tuple[Arm, ...] = get_args(Arm)
CELL_ARMS: dict[Cell, frozenset[Arm]] = {
    "B16": frozenset({"lora"}), "B4": frozenset(), "L16": frozenset({"lora"}), "Q4": frozenset({"qlora"}),
    "L4": frozenset({"lora"}), "Q16": frozenset({"lora", "qlora"}), "QD": frozenset({"lora", "qlora"}),
    "QR": frozenset({"lora", "qlora"}), "LM": frozenset({"lora"}), "LR": frozenset({"lora"}),
}
"""The arms that a study has to train for each cell to be scored: the one whose adapter the cell uses, and ``lora``
where all of the base's 16-bit weights have to be in memory at once. A study without that arm may run where they do not
fit. Merging is such a case too: it widens the 4-bit base."""
BASIC: dict[str, Any] = {"level": "basic"}
METRIC_REGISTRY = "evals.metrics:METRICS"
"""Place of the registry of metrics."""


class Part(BaseModel):
    """Settings that refuse what they do not know and do not change."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


@dataclass(frozen=True)
class NameOf:
    """The type of a setting whose value is the name of an entry of a registry: ``Annotated[str, NameOf("a.b:C")]``.

    The module of the registry comes after this package in the order of imports. The setting therefore gives its place
    as text, and the module is imported when a value is validated. An unknown name is reported together with all other
    mistakes in the settings, before anything is trained, and a name that a plugin registers is accepted. Plugins are
    imported only for names that the product itself does not register.

    Attributes:
        place: As for :func:`assistant_builder.registry.find_registry`.
        flag: Attribute that must be true of an entry to be chosen; empty: any entry.
    """

    place: str
    flag: str = ""

    def choices(self) -> tuple[str, ...]:
        """The names that can be chosen, in the order of the registry."""
        return tuple(name for name, entry in find_registry(self.place).items() if self._allows(entry))

    def _allows(self, entry: Any) -> bool:
        return not self.flag or bool(getattr(entry, self.flag))

    def _check(self, name: str) -> str:
        registry = find_registry(self.place)
        if name in registry and self._allows(registry[name]):
            return name
        raise ValueError(f"it should be one of {', '.join(self.choices())}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return handler(Annotated[source, AfterValidator(self._check)])


class DataConfig(Part):
    """Where the question-answer pairs come from and how they are split."""

    source: str = Field("", title="Data file", description="CSV, TSV, JSON, JSONL, XLSX or Parquet file.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        title="Columns",
        description="Which column plays which role (question, answer, context, messages, group, cluster, split, "
        "answerable, system), where the names in the file do not say it; an empty name leaves a role out. "
        "Example: group=focus.",
    )
    system: str | None = Field(
        None,
        title="System prompt",
        description="Instruction put before every question that brings none of its own. "
        "Empty: the base model's own default.",
        json_schema_extra=BASIC,
    )
    heldout_fraction: float = Field(
        0.2, gt=0, lt=0.9, title="Held-out share", description="Share of the pairs kept aside to test the assistants.",
        json_schema_extra=BASIC,
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=0.5, title="Validation share",
        description="Share of the remaining pairs used to choose the best checkpoint.",
    )
    max_train: int | None = Field(
        None, ge=1, title="Most training pairs", description="Train on at most this many pairs. Empty: all.",
        json_schema_extra=BASIC,
    )
    max_heldout: int | None = Field(
        None, ge=2, title="Most held-out pairs", description="Score at most this many held-out pairs. Empty: all.",
        json_schema_extra=BASIC,
    )
    near_duplicate_threshold: float = Field(
        0.8, gt=0.3, le=1, title="Near-duplicate threshold",
        description="Two questions whose estimated Jaccard similarity (MinHash over word shingles) reaches this are "
        "near-duplicates.",
    )
    embedding_threshold: float = Field(
        0.95, gt=0.5, le=1, title="Embedding-leak threshold",
        description="A held-out question whose sentence-embedding cosine with a training question reaches this is "
        "reported as a leak.",
    )
    remove_leaks: Literal["auto", "always", "never"] = Field(
        "auto", title="Remove leaks",
        description="Drop held-out questions that also stand in training. auto: yes, unless the file gives the split.",
    )
    seed: int = Field(0, ge=0, title="Split seed", description="Seed of the split.")


class ModelConfig(Part):
    """The base model and how its frozen weights are stored and computed with."""

    base: str = Field(
        "smollm2-135m-instruct", min_length=1, title="Base model",
        description="A name from the catalog, a hub id (owner/name), or a folder with config.json.",
        json_schema_extra=BASIC,
    )
    revision: str | None = Field(None, title="Revision", description="Hub revision (branch, tag or commit).")
    trust_remote_code: bool = Field(
        False, title="Trust remote code", description="Ask to run Python code that the model's folder or repository "
        "brings along. No file allows it: --trust-remote-code does for one command, a tick on the page for one run.",
    )
    quant_type: Literal["nf4", "fp4"] = Field(
        "nf4", title="4-bit type", description="How the QLoRA arm's base is stored (QLoRA paper: NF4)."
    )
    double_quant: bool = Field(
        True, title="Double quantization",
        description="Quantize the block constants too: 0.5 to 0.127 bits a parameter (QLoRA paper).",
    )
    compute_dtype: ComputeDtype = Field(
        "auto", title="Compute dtype",
        description="Arithmetic of both arms, apart from how weights are stored. auto: bfloat16 where the hardware "
        "has it, else float16 on a GPU and float32 on a CPU.",
    )
    allow_float32_compute: bool = Field(
        False, title="Allow float32 compute",
        description="Permit compute_dtype=float32 on a 4-bit base; it is slower and gains nothing measurable.",
    )

    @model_validator(mode="after")
    def _float32_only_when_asked(self) -> ModelConfig:
        if self.compute_dtype == "float32" and not self.allow_float32_compute:
            raise ValueError(
                "float32 compute on a 4-bit base costs speed and memory and gains no quality: use bfloat16, or set "
                "model.allow_float32_compute=true if you mean it"
            )
        return self


class TrainConfig(Part):
    """LoRA and optimization, shared by both arms."""

    preset: Literal["quick", "balanced", "thorough", "custom"] = Field(
        "balanced", title="Preset", description="A named set of values (epochs, rank, alpha, validations) that the "
        "other settings start from.",
    )
    rank: int = Field(16, ge=1, le=1024, title="LoRA rank", description="Size of the adapters: how much "
                      "they can take in (QLoRA paper: 64).",
                      json_schema_extra=BASIC)
    alpha: float = Field(32, gt=0, title="LoRA alpha", description="How strongly the adapters act: their "
                         "output is scaled by alpha / rank.")
    dropout: float = Field(0.05, ge=0, lt=1, title="LoRA dropout", description="Dropout before each adapter "
                           "(QLoRA paper: 0.05 for 33B and 65B, 0.1 for 7B and 13B).")
    target_modules: Annotated[str, AfterValidator(str.strip)] = Field(
        "all-linear", min_length=1, title="Adapted layers",
        description="'all-linear' (QLoRA paper) or a comma-separated list of module names.",
    )
    epochs: float = Field(3.0, gt=0, le=1000, title="Epochs", description="Passes over the training pairs: "
                          "too few and the answers stay vague, too many and the pairs are learnt by heart.",
                          json_schema_extra=BASIC)
    max_steps: int | None = Field(None, ge=1, title="Most steps", description="Stop after this many optimizer steps.")
    learning_rate: float = Field(5e-4, gt=0, le=1, title="Learning rate", description="Peak learning rate of AdamW.",
                                 json_schema_extra=BASIC)
    warmup_fraction: float = Field(0.05, ge=0, lt=1, title="Warm-up", description="Share of the steps over which the "
                                   "learning rate rises; it then falls along a cosine.")
    weight_decay: float = Field(0.0, ge=0, title="Weight decay", description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, title="Gradient clipping", description="Largest gradient norm.")
    batch_size: int = Field(16, ge=1, title="Batch size", description="Pairs per optimizer step (the effective batch).",
                            json_schema_extra=BASIC)
    micro_batch_size: int = Field(8, ge=1, title="Micro-batch size", description="Pairs computed at once; gradients "
                                  "are accumulated over batch_size / micro_batch_size of them.")
    max_length: int = Field(512, ge=32, title="Longest pair", description="Tokens; longer pairs are cut at the end.",
                            json_schema_extra=BASIC)
    optimizer: Literal["adamw", "paged_adamw_32bit", "paged_adamw_8bit"] = Field(
        "adamw", title="Optimizer", description="Paged optimizers move their state to RAM when the GPU is full "
        "(QLoRA paper) and need CUDA.",
    )
    kernels: Literal["plain", "liger", "compile"] = Field(
        "plain", title="GPU kernels", description="plain: PyTorch's and transformers' own. liger: those of "
        "liger-kernel, for many families of models. compile: torch.compile, layer by layer; pays in long trainings. "
        "Both need CUDA; a processor has fused arithmetic of its own in any case.",
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", title="Gradient checkpointing",
        description="Recompute activations in the backward pass: less memory, a third more arithmetic. auto: only "
        "when the estimate does not fit the memory that is free.",
    )
    allow_low_memory: bool = Field(
        False, title="Start without enough memory", description="Start even where the plan says that the training "
        "cannot fit this machine's memory; it may then crawl, or be ended by the system.",
    )
    evaluations: int = Field(4, ge=1, le=1000, title="Validations", description="How often the validation loss is "
                             "computed (and a checkpoint kept) in the run, evenly spaced.")
    sample_answers: int = Field(3, ge=0, le=20, title="Sample answers", description="How many validation questions "
                                "both assistants answer at the validations (at eight of them at most), to be read as "
                                "training goes; no result depends on it.")
    early_stopping: bool = Field(False, title="Early stop", description="Stop both arms at the same step once neither "
                                 "improves.")
    patience: int = Field(2, ge=1, title="Patience", description="Validations without improvement before early stop.")
    seed: int = Field(0, ge=0, title="Training seed", description="Seed of adapter initialisation, order and dropout.")

    @model_validator(mode="after")
    def _batch_divides(self) -> TrainConfig:
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self


class EvalConfig(Part):
    """What is measured, and how the comparison is judged."""

    cells: list[Cell] = Field(
        default_factory=lambda: list(CELLS), title="Cells",
        description="Combinations of base and adapter to score.",
    )
    primary_metric: Annotated[str, NameOf(METRIC_REGISTRY, "can_be_primary")] = Field(
        "nll_per_token", title="Primary metric", description="The metric that decides the verdict, fixed before the "
        "run.",
    )
    margin: float = Field(
        0.03, ge=0, title="Margin", description="Largest harm that still counts as no worse, in units of the primary "
        "metric (0.03 nats is about 3 % perplexity).",
    )
    max_new_tokens: int = Field(64, ge=1, title="Longest answer", description="Tokens an assistant may generate.",
                                json_schema_extra=BASIC)
    batch_size: int = Field(64, ge=1, title="Scoring batch", description="Items scored at once; on a CPU the scores do "
                            "not depend on it.")
    compute_dtype: ComputeDtype = Field("auto", title="Compute dtype of scoring", description="auto: that of training.")
    bootstrap_resamples: int = Field(10_000, ge=200, title="Bootstrap resamples", description="For the intervals.")
    similarity: bool = Field(True, title="Similarity", description="Score answers with sentence embeddings "
                             "(all-MiniLM-L6-v2); blind to negation and numbers.")
    baselines: bool = Field(True, title="Untuned baselines", description="Score what no tuning gives: copying the "
                            "nearest training answer, and the base model with three retrieved pairs in its prompt.")
    fidelity: bool = Field(True, title="Fidelity", description="Compare the 16-bit and 4-bit models token by token "
                           "(KL divergence, top-1 agreement); needs memory for both bases at once.")
    noise_floor: bool = Field(True, title="Noise floor", description="Score both assistants once more in batches of "
                              "another size, to show which flips arithmetic alone causes.")
    retention: bool = Field(True, title="Retention", description="Ask general-knowledge questions, to show what tuning "
                            "made the model forget.")
    tasks: list[str] = Field(default_factory=list, title="More lm-eval tasks", description="Names of lm-eval tasks to "
                             "run on B16, B4, L16 and Q4 besides the held-out set.")
    judge_url: str | None = Field(
        None, title="Judge endpoint", description="Base URL of an OpenAI-compatible server (http://127.0.0.1:8000/v1) "
        "whose model compares the two assistants' answers. Empty: no judge. The key is read from the environment "
        "variable ASSISTANT_BUILDER_JUDGE_KEY.",
    )
    judge_model: str = Field("", title="Judge model", description="Name of the model the judge endpoint shall use.")
    judge_items: int = Field(100, ge=1, title="Most judged items", description="Held-out items sent to the judge at "
                             "most, each in both orders.")
    price_per_hour: float | None = Field(
        None, ge=0, title="Price of an hour", description="What an hour of this machine costs, in any currency; the "
        "report then says what each assistant cost.",
    )
    seed: int = Field(0, ge=0, title="Evaluation seed", description="Seed of bootstrap and permutations.")

    @model_validator(mode="before")
    @classmethod
    def _margin_in_units_of_the_metric(cls, tree: Any) -> Any:
        """Without ``margin`` the primary metric brings its default margin."""
        if not isinstance(tree, dict) or "margin" in tree or not isinstance(tree.get("primary_metric"), str):
            return tree
        metric = find_registry(METRIC_REGISTRY).get(tree["primary_metric"])
        return tree if metric is None else {**tree, "margin": metric.default_margin}

    @model_validator(mode="after")
    def _judge_is_whole_and_holds_no_secret(self) -> EvalConfig:
        if self.judge_url is None:
            return self
        try:
            parts = urlsplit(self.judge_url)
        except ValueError:  # brackets that do not match, say
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"judge_url is no web address: {self.judge_url!r}; an example is http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("judge_url must not hold a password or key, for it is written down; put the key into the "
                             "environment variable ASSISTANT_BUILDER_JUDGE_KEY")
        if not self.judge_model.strip():
            raise ValueError("judge_url needs judge_model, the name of the model that shall judge")
        return self
