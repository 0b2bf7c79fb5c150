"""Settings of the evaluation: cells, metrics, verdict and judge."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from assistant_builder.arms import TWIN_CELLS
from assistant_builder.config.base import BASIC, ComputeDtype, ConfigModel, RegistryName
from assistant_builder.i18n import N_, m

METRIC_REGISTRY = "evals.metrics:METRICS"
"""Location of the registry of metrics."""
MIN_ANSWER, ANSWER_STEP = 64, 32
"""Least limit of generated answers in tokens where it follows the data, and what it is a multiple of."""
CellName = Annotated[str, RegistryName("assistant_builder.arms:CELLS")]


class EvalConfig(ConfigModel):
    """Metrics, verdict and judge."""

    cells: list[CellName] = Field(default_factory=lambda: list(TWIN_CELLS), title=N_("Cells"))
    """Combinations of base and adapter to score, for the two twins. The cells of other arms are always scored."""
    primary_metric: Annotated[str, RegistryName(METRIC_REGISTRY, "can_be_primary", ("auto",))] = (
        Field("auto", title=N_("Primary metric"))
    )
    """The metric of the verdict, fixed when scoring starts. auto: exact match for short answers, token F1 for longer
    ones, the loss for long ones."""
    # None: ``Metric.default_margin`` of evals/metrics/registry.py
    margin: float | None = Field(None, ge=0, title=N_("Margin"))
    """Largest harm that still counts as no worse, in units of the primary metric. Empty: 0.05 (5 points), and for the
    loss 3 % of what tuning gained."""
    second_margin: float | None = Field(None, ge=0, title=N_("Margin of the second metric"))
    """The same for the second metric of the verdict, which is the loss, or with the loss as the primary metric exact
    match or token F1."""
    decline_margin: float = Field(0.05, ge=0, le=1, title=N_("Margin of false declines"))
    """Largest increase of the share of answerable questions that are declined which still counts as no worse."""
    right_decline_margin: float = Field(0.1, ge=0, le=1, title=N_("Margin of right declines"))
    """Largest decrease of the share of questions to decline that are declined which still counts as no worse. Fewer
    than 40 such test questions, or more for a narrower margin or a later look, are not judged."""
    estimand: Literal["auto", "wordings", "facts"] = Field("auto", title=N_("Claim"))
    """What the verdict is about. wordings: new wordings of facts that were taught. facts: new facts of the same kind.
    auto: wordings if most test facts were taught in other words."""
    max_new_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", title=N_("Longest answer"), json_schema_extra=BASIC
    )
    """Maximum tokens of a generated answer. auto: a quarter more than the longest answer of the data, at least 64."""
    batch_size: int = Field(64, ge=1, title=N_("Scoring batch"))
    """Items per batch; scores on a CPU do not depend on it."""
    compute_dtype: ComputeDtype = Field("auto", title=N_("Compute dtype of scoring"))
    """auto: the compute dtype of training."""
    bootstrap_resamples: int = Field(10000, ge=200, title=N_("Bootstrap resamples"))
    """Resamples for the confidence intervals."""
    similarity: bool = Field(True, title=N_("Similarity"))
    """Score answers with sentence embeddings (all-MiniLM-L6-v2), which are insensitive to negation and numbers."""
    baselines: bool = Field(True, title=N_("Untuned baselines"))
    """Score baselines without tuning: where facts are looked up, the copied best fact; from memory, the answer to the
    nearest training question, and the base model with three retrieved pairs in its prompt."""
    fidelity: bool = Field(True, title=N_("Fidelity"))
    """Compare the 16-bit and 4-bit models token by token (KL divergence, top-1 agreement)."""
    noise_floor: bool = Field(True, title=N_("Noise floor"))
    """Score both assistants again with another batch size, to show the differences that rounding alone causes."""
    retention: bool = Field(True, title=N_("Retention"))
    """Ask general-knowledge questions, to measure what the model forgot in tuning."""
    tasks: list[str] = Field(default_factory=list, title=N_("More lm-eval tasks"))
    """Names of lm-eval tasks to run on B16, B4, L16 and Q4 in addition to the test set."""
    judge_url: str | None = Field(None, title=N_("Judge endpoint"))
    """Base URL of an OpenAI-compatible server (http://127.0.0.1:8000/v1) whose model compares the two assistants'
    answers. Empty: no judge. The key is read from the environment variable ASSISTANT_BUILDER_JUDGE_KEY."""
    judge_model: str = Field("", title=N_("Judge model"))
    """Name of the model at the judge endpoint."""
    judge_items: int = Field(100, ge=1, title=N_("Maximum judged items"))
    """Maximum number of test items sent to the judge, each in both orders."""
    price_per_hour: float | None = Field(None, ge=0, title=N_("Price of an hour"))
    """Price of one hour on this machine, in any currency; the report then states the cost of each assistant."""
    seed: int = Field(0, ge=0, title=N_("Evaluation seed"))
    """Seed of the bootstrap and the permutation tests."""

    def answer_limit(self, longest: int) -> int:
        """Most tokens of a generated answer, for data whose longest answer has ``longest`` tokens with its end token.

        ``auto`` leaves a quarter more than the longest answer, because an assistant words answers differently.
        """
        if self.max_new_tokens != "auto":
            return self.max_new_tokens
        return max(MIN_ANSWER, -(-5 * longest // (4 * ANSWER_STEP)) * ANSWER_STEP)

    @model_validator(mode="after")
    def _check_judge(self) -> EvalConfig:
        if self.judge_url is None:
            return self
        try:
            parts = urlsplit(self.judge_url)
        except ValueError:  # for example unbalanced brackets
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                m(
                    "judge_url is not a URL: {judge_url!r}; an example is http://127.0.0.1:8000/v1",
                    judge_url=self.judge_url,
                )
            )
        if parts.username or parts.password or parts.query:
            raise ValueError(
                m(
                    "judge_url must not contain a password or key, because it is saved in study.yaml; put the key into "
                    "the environment variable ASSISTANT_BUILDER_JUDGE_KEY"
                )
            )
        if not self.judge_model.strip():
            raise ValueError(m("judge_url needs judge_model, the name of the model that judges"))
        return self
