"""The sections of a study's settings: each option with its default, bounds and help text.

``Field(title=…)`` is the label and ``description`` the help text. The page shows options with
``json_schema_extra={"level": "basic"}`` outside the advanced pane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator

from assistant_builder.arms import TWIN_CELLS
from assistant_builder.registry import find_registry

ComputeDtype = Literal["auto", "bfloat16", "float16", "float32"]
BASIC: dict[str, Any] = {"level": "basic"}
METRIC_REGISTRY = "evals.metrics:METRICS"
"""Place of the registry of metrics."""
QUANTIZATION_REGISTRY = "assistant_builder.quantization:METHODS"
"""Place of the registry of quantization methods."""


class Part(BaseModel):
    """Base class of all settings: immutable, and unknown options are errors."""

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


ArmName = Annotated[str, NameOf("assistant_builder.arms:ARMS")]
CellName = Annotated[str, NameOf("assistant_builder.arms:CELLS")]


class DataConfig(Part):
    """The data file and its split."""

    source: str = Field("", title="Data file", description="CSV, TSV, JSON, JSONL, XLSX or Parquet file.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        title="Columns",
        description="Column of each role (question, answer, context, messages, group, cluster, split, answerable, "
        "system), for files with other column names. An empty name disables a role. Example: group=focus.",
    )
    system: str | None = Field(
        None,
        title="System prompt",
        description="Instruction for rows without a system prompt. Empty: the default of the base model.",
        json_schema_extra=BASIC,
    )
    heldout_fraction: float = Field(
        0.2, gt=0, lt=0.9, title="Held-out share", description="Share of the pairs that tests the assistants.",
        json_schema_extra=BASIC,
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=0.5, title="Validation share",
        description="Share of the remaining pairs that selects the best checkpoint.",
    )
    max_train: int | None = Field(
        None, ge=1, title="Maximum training pairs", description="Empty: all pairs.",
        json_schema_extra=BASIC,
    )
    max_heldout: int | None = Field(
        None, ge=2, title="Maximum held-out pairs", description="Empty: all pairs.",
        json_schema_extra=BASIC,
    )
    near_duplicate_threshold: float = Field(
        0.8, gt=0.3, le=1, title="Near-duplicate threshold",
        description="Minimum Jaccard similarity of the word pairs of two near-duplicate questions.",
    )
    embedding_threshold: float = Field(
        0.95, gt=0.5, le=1, title="Embedding-leak threshold",
        description="Minimum cosine similarity of the sentence embeddings of a held-out and a training question that "
        "is reported as a leak.",
    )
    remove_leaks: Literal["auto", "always", "never"] = Field(
        "auto", title="Remove leaks",
        description="Remove held-out questions that also occur in training. auto: unless the file specifies the split.",
    )
    seed: int = Field(0, ge=0, title="Split seed", description="Seed of the split.")


class ModelConfig(Part):
    """The base model: source, storage of its frozen weights, and compute dtype."""

    base: str = Field(
        "smollm2-135m-instruct", min_length=1, title="Base model",
        description="A name from the catalog, a Hub id (owner/name), or a folder with config.json.",
        json_schema_extra=BASIC,
    )
    revision: str | None = Field(None, title="Revision", description="Revision on the Hub: branch, tag or commit.")
    trust_remote_code: bool = Field(
        False, title="Trust remote code", description="Request to run the Python code in the model's folder or "
        "repository. No file can grant it: use --trust-remote-code for one command, or the checkbox on the page for "
        "one run.",
    )
    quant_type: Annotated[str, NameOf(QUANTIZATION_REGISTRY, "quantizes")] = Field(
        "nf4", title="Quantization", description="How the QLoRA arm's base is stored (QLoRA paper: NF4)."
    )
    double_quant: bool = Field(
        True, title="Double quantization",
        description="Also quantize the quantization constants, which reduces them from 0.5 to 0.127 bits per parameter "
        "(QLoRA paper).",
    )
    compute_dtype: ComputeDtype = Field(
        "auto", title="Compute dtype",
        description="Data type of the computation in both arms, independent of how weights are stored. auto: bfloat16 "
        "if the hardware supports it, else float16 on a GPU and float32 on a CPU.",
    )
    allow_float32_compute: bool = Field(
        False, title="Allow float32 compute",
        description="Permit compute_dtype=float32 on a 4-bit base, which is slower without a measurable benefit.",
    )

    @model_validator(mode="after")
    def _check_compute_dtype(self) -> ModelConfig:
        if self.compute_dtype == "float32" and not self.allow_float32_compute:
            raise ValueError(
                "float32 compute on a 4-bit base is slower and needs more memory without better quality: use bfloat16, "
                "or set model.allow_float32_compute=true to permit it"
            )
        return self


class TrainConfig(Part):
    """LoRA and optimization, shared by both arms."""

    preset: Literal["quick", "balanced", "thorough", "custom"] = Field(
        "balanced", title="Preset", description="A named set of values for epochs, rank, alpha and validations; other "
        "settings replace them.",
    )
    rank: int = Field(16, ge=1, le=1024, title="LoRA rank", description="Rank of the adapter matrices, "
                      "which determines their capacity (QLoRA paper: 64).",
                      json_schema_extra=BASIC)
    alpha: float = Field(32, gt=0, title="LoRA alpha", description="Scale of the adapters: their output "
                         "is multiplied by alpha / rank.")
    dropout: float = Field(0.05, ge=0, lt=1, title="LoRA dropout", description="Dropout before each adapter "
                           "(QLoRA paper: 0.05 for 33B and 65B, 0.1 for 7B and 13B).")
    target_modules: Annotated[str, AfterValidator(str.strip)] = Field(
        "all-linear", min_length=1, title="Adapted layers",
        description="'all-linear' (QLoRA paper) or a comma-separated list of module names.",
    )
    epochs: float = Field(3.0, gt=0, le=1000, title="Epochs", description="Passes over the training pairs. "
                          "Too few give vague answers, too many give overfitting.",
                          json_schema_extra=BASIC)
    max_steps: int | None = Field(None, ge=1, title="Maximum steps", description="Empty: limited by epochs only.")
    learning_rate: float = Field(5e-4, gt=0, le=1, title="Learning rate", description="Peak learning rate of AdamW.",
                                 json_schema_extra=BASIC)
    warmup_fraction: float = Field(0.05, ge=0, lt=1, title="Warm-up", description="Share of the steps over which the "
                                   "learning rate rises; it then falls along a cosine.")
    weight_decay: float = Field(0.0, ge=0, title="Weight decay", description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, title="Gradient clipping", description="Maximum norm of the gradient.")
    batch_size: int = Field(16, ge=1, title="Batch size", description="Pairs per optimizer step (the effective batch).",
                            json_schema_extra=BASIC)
    micro_batch_size: int = Field(8, ge=1, title="Micro-batch size", description="Pairs per forward and "
                                  "backward pass; gradients are accumulated over batch_size / micro_batch_size passes.")
    max_length: int = Field(512, ge=32, title="Longest pair", description="Tokens; longer pairs are truncated.",
                            json_schema_extra=BASIC)
    optimizer: Literal["adamw", "paged_adamw_32bit", "paged_adamw_8bit"] = Field(
        "adamw", title="Optimizer",
        description="Paged optimizers move their state to main memory when GPU memory is full (QLoRA paper). They need "
        "CUDA.",
    )
    kernels: Literal["plain", "liger", "compile"] = Field(
        "plain", title="GPU kernels",
        description="plain: those of PyTorch and transformers. liger: those of liger-kernel, for many model families. "
        "compile: torch.compile of each layer, for long training runs. Both need CUDA; fused CPU kernels are always "
        "used.",
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", title="Gradient checkpointing",
        description="Recompute activations in the backward pass, which saves memory and takes a third more "
        "computation. auto: only if the estimate exceeds the free memory.",
    )
    allow_low_memory: bool = Field(
        False, title="Start without enough memory", description="Start even if the estimate exceeds the memory of "
        "this machine; training may then be very slow, or the operating system may end it.",
    )
    evaluations: int = Field(4, ge=1, le=1000, title="Validations", description="Number of evenly spaced "
                             "validations in a run; a checkpoint is saved at each.")
    sample_answers: int = Field(3, ge=0, le=20, title="Sample answers", description="Validation questions that both "
                                "assistants answer during training, at up to eight validations; results do not depend "
                                "on them.")
    early_stopping: bool = Field(False, title="Early stop", description="Stop both arms at the same step when neither "
                                 "improves.")
    patience: int = Field(2, ge=1, title="Patience",
                          description="Validations without improvement before the early stop.")
    seed: int = Field(0, ge=0, title="Training seed", description="Seed of adapter initialization, order and dropout.")

    @model_validator(mode="after")
    def _check_batch_size(self) -> TrainConfig:
        if self.batch_size % min(self.micro_batch_size, self.batch_size):
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self


class EvalConfig(Part):
    """Metrics, verdict and judge."""

    cells: list[CellName] = Field(
        default_factory=lambda: list(TWIN_CELLS), title="Cells",
        description="Combinations of base and adapter to score, of the twins; those of further arms are scored in any "
        "case.",
    )
    primary_metric: Annotated[str, NameOf(METRIC_REGISTRY, "can_be_primary")] = Field(
        "nll_per_token", title="Primary metric", description="The metric that determines the verdict; fixed before "
        "the run.",
    )
    margin: float = Field(
        0.03, ge=0, title="Margin", description="Maximum loss that still counts as no worse, in units of the primary "
        "metric (0.03 nats correspond to about 3 % perplexity).",
    )
    max_new_tokens: int = Field(64, ge=1, title="Longest answer", description="Maximum tokens of a generated answer.",
                                json_schema_extra=BASIC)
    batch_size: int = Field(64, ge=1, title="Scoring batch", description="Items per batch; scores on a CPU do "
                            "not depend on it.")
    compute_dtype: ComputeDtype = Field("auto", title="Compute dtype of scoring",
                                        description="auto: the compute dtype of training.")
    bootstrap_resamples: int = Field(10_000, ge=200, title="Bootstrap resamples",
                                     description="Resamples for the confidence intervals.")
    similarity: bool = Field(True, title="Similarity", description="Score answers with sentence embeddings "
                             "(all-MiniLM-L6-v2), which are insensitive to negation and numbers.")
    baselines: bool = Field(True, title="Untuned baselines", description="Score two baselines without tuning: the "
                            "answer to the nearest training question, and the base model with three retrieved pairs in "
                            "its prompt.")
    fidelity: bool = Field(True, title="Fidelity", description="Compare the 16-bit and 4-bit models token by token "
                           "(KL divergence, top-1 agreement); needs memory for both base models.")
    noise_floor: bool = Field(True, title="Noise floor", description="Score both assistants again with another "
                              "batch size, to show the differences that rounding alone causes.")
    retention: bool = Field(True, title="Retention", description="Ask general-knowledge questions, to measure what the "
                            "model forgot in tuning.")
    tasks: list[str] = Field(default_factory=list, title="More lm-eval tasks", description="Names of lm-eval tasks to "
                             "run on B16, B4, L16 and Q4 in addition to the held-out set.")
    judge_url: str | None = Field(
        None, title="Judge endpoint", description="Base URL of an OpenAI-compatible server (http://127.0.0.1:8000/v1) "
        "whose model compares the two assistants' answers. Empty: no judge. The key is read from the environment "
        "variable ASSISTANT_BUILDER_JUDGE_KEY.",
    )
    judge_model: str = Field("", title="Judge model", description="Name of the model at the judge endpoint.")
    judge_items: int = Field(100, ge=1, title="Maximum judged items", description="Maximum number of held-out "
                             "items sent to the judge, each in both orders.")
    price_per_hour: float | None = Field(
        None, ge=0, title="Price of an hour", description="Price of one hour on this machine, in any currency; the "
        "report then states the cost of each assistant.",
    )
    seed: int = Field(0, ge=0, title="Evaluation seed", description="Seed of the bootstrap and the permutation tests.")

    @model_validator(mode="before")
    @classmethod
    def _margin_in_units_of_the_metric(cls, tree: Any) -> Any:
        """Without ``margin`` the primary metric brings its default margin."""
        if not isinstance(tree, dict) or "margin" in tree or not isinstance(tree.get("primary_metric"), str):
            return tree
        metric = find_registry(METRIC_REGISTRY).get(tree["primary_metric"])
        return tree if metric is None else {**tree, "margin": metric.default_margin}

    @model_validator(mode="after")
    def _check_judge(self) -> EvalConfig:
        if self.judge_url is None:
            return self
        try:
            parts = urlsplit(self.judge_url)
        except ValueError:  # for example unbalanced brackets
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"judge_url is not a URL: {self.judge_url!r}; an example is http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("judge_url must not contain a password or key, because it is saved in study.yaml; put "
                             "the key into the environment variable ASSISTANT_BUILDER_JUDGE_KEY")
        if not self.judge_model.strip():
            raise ValueError("judge_url needs judge_model, the name of the model that judges")
        return self
