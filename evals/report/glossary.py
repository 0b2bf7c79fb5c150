"""Texts of every report: names of the cells, published results for comparison, the glossary, and missing sections."""

from __future__ import annotations

BASELINE_TEXTS = {
    "copy": ("Copied answer", "no model: the answer of the most similar training question"),
    "retrieval": (
        "Untuned, with examples",
        "the untuned float16 base, shown the three nearest training pairs as "
        "earlier turns of the chat (fewer where they do not fit)",
    ),
}
"""Label and description of the untuned baselines; unlike cells, they are no combinations of base and adapter."""


CONTEXT: tuple[dict[str, str], ...] = (
    {
        "what": "Mean 5-shot MMLU over 8 tunings",
        "lora": "53.0",
        "qlora": "53.1",
        "note": "single tunings between −1.3 and +1.4",
        "source": "QLoRA paper, arXiv:2305.14314",
    },
    {
        "what": "Phi-2 on GSM8K",
        "lora": "64.8 ± 0.5",
        "qlora": "60.2 ± 0.6",
        "note": "",
        "source": "LoftQ README, github.com/yxli2123/LoftQ",
    },
    {
        "what": "Llama-3-8B on GSM8K",
        "lora": "69.3 ± 1.5",
        "qlora": "67.4 ± 1.0",
        "note": "",
        "source": "LoftQ README, github.com/yxli2123/LoftQ",
    },
    {
        "what": "Typical claim",
        "lora": "",
        "qlora": "1–3% below",
        "note": "seldom with an interval or a 16-bit twin",
        "source": "common statement",
    },
)
"""Published 16-bit LoRA and QLoRA results. Other models, data and metrics: orders of magnitude, not targets."""

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "16-bit, 4-bit",
        "The number of bits that store one weight of the frozen base model. In 4 bits (QLoRA's format is "
        "called NF4) a weight takes about a quarter of the memory and is rounded to one of 16 values.",
    ),
    (
        "95% interval",
        "The range of differences that fit the data. If the study were repeated with new questions of the "
        "same kind, 95 of 100 such ranges would contain the true difference.",
    ),
    (
        "adapter",
        "The small set of weights that training changes (LoRA). The base model itself stays frozen.",
    ),
    (
        "baseline",
        "The reference of the comparison: the twin trained on the float16 base. An untuned baseline is what "
        "you would get without any training.",
    ),
    (
        "bound",
        "The limit that one metric sets for “no worse”: the harmful end of its 95% interval must be within its "
        "margin. “No worse” needs all bounds.",
    ),
    (
        "calibration, reliability",
        "Whether a model's confidence can be trusted: of the answers with a probability of "
        "70%, 7 in 10 should be right. ECE is the mean gap between the two, the Brier score the mean squared error; 0 "
        "is "
        "best.",
    ),
    ("cell", "One combination of base model (16-bit or 4-bit) and adapter (none, LoRA, QLoRA)."),
    (
        "chrF",
        "The overlap of character sequences between answer and reference. It tolerates other word forms, but a "
        "wrong digit hardly changes it.",
    ),
    (
        "claim",
        "What the verdict is about: new wordings of facts that were taught, or new facts of the same kind. It "
        "decides which questions count and what a cluster is.",
    ),
    (
        "cluster",
        "Questions that belong together, such as several phrasings of one fact. Their results are similar, so "
        "they count as fewer independent questions.",
    ),
    (
        "contrast",
        "The difference between two cells on the same items, such as Q4 − L16: first minus second.",
    ),
    (
        "declining",
        "An answer in which the assistant says that it does not know. It is right for a question that cannot "
        "be answered and wrong for any other.",
    ),
    (
        "export",
        "The files for serving: the adapter alone, or a merged model. An export can behave differently from the "
        "measured assistant, so each is scored separately.",
    ),
    (
        "facts kept",
        "The share of the reference's numbers with units, codes and capitalised names that the answer "
        "repeats.",
    ),
    (
        "flip",
        "An item that is right under one assistant and wrong under the other. Losses and gains can cancel out in "
        "a mean; flips show both.",
    ),
    ("held-out", "Questions that were set aside before training and are used for this test only."),
    (
        "judge",
        "Another language model that decides which of two answers is better. It sees each pair in both orders; "
        "if its choice depends on the order, the result is a tie.",
    ),
    (
        "KL divergence",
        "The distance between two models' predictions of the next token, in nats: 0 if they are the "
        "same. It shows changes that do not affect the first choice and therefore not the accuracy.",
    ),
    (
        "LoRA, QLoRA",
        "Two ways to fine-tune. Both train the same adapter, LoRA on the base in 16 bits, QLoRA on the "
        "base in 4 bits.",
    ),
    (
        "loss, nats per token",
        "The mean negative log-probability that the assistant gives to the tokens of the "
        "reference answer. 0 means certainty. 0.01 nats more is about 1% more perplexity.",
    ),
    (
        "margin",
        "The largest loss of quality that you accept, fixed when scoring starts. Later changes are shown at the "
        "verdict.",
    ),
    (
        "merge",
        "To add the adapter to the base's weights permanently, so that a single model is served.",
    ),
    (
        "minimum detectable difference",
        "The smallest true difference that a study of this size would usually detect. "
        "“No clear difference” does not rule out anything smaller.",
    ),
    (
        "noise floor",
        "The changes that rounding alone causes, measured here with another scoring batch size. A "
        "difference that is no larger is not a finding.",
    ),
    (
        "non-inferior",
        "The term of statistics for “no worse”: a harm beyond the margin is ruled out.",
    ),
    (
        "p-value",
        "The probability of a difference at least this large if the two assistants were equally good. A small "
        "value is unlikely to be chance. Holm's adjustment accounts for testing several metrics at once; it applies to "
        "improvements, not to harm.",
    ),
    (
        "paired",
        "Both assistants answer the same questions and are compared question by question, so hard and easy "
        "questions cancel out.",
    ),
    (
        "percentile, p99",
        "The value that 99 of 100 tokens do not exceed; it describes the worst hundredth.",
    ),
    (
        "perplexity",
        "The exponential of the loss: the number of equally likely tokens that would be as uncertain.",
    ),
    ("points", "Differences of scores from 0 to 100. From 64% to 62% is 2 points, not 2%."),
    ("power", "The probability that a study detects a difference that exists."),
    (
        "qat",
        "A further assistant: the LoRA adapter is trained on while the weights are rounded as its GGUF file will "
        "round them (quantization-aware training), so that the file answers as it was trained.",
    ),
    (
        "requantize",
        "To round a model that was merged in 16 bits to 4 bits again. This rounds the adapter too.",
    ),
    (
        "retention",
        "The general knowledge that the model still has after training. Tuning can make it forget.",
    ),
    (
        "retrieval",
        "A search for the most similar training questions, which are shown to the model with their "
        "answers, in the grounded approach and to the untuned model as a baseline.",
    ),
    (
        "seed",
        "The number that determines the random choices of training, such as the order of the data. Another seed "
        "gives another adapter and another result.",
    ),
    ("top-1 agreement", "How often two models predict the same token as the likeliest."),
    (
        "twins",
        "Two training runs with the same data, order, seed, settings and number of steps. Only the storage of "
        "the frozen base differs, so that it explains the difference of the results.",
    ),
    ("waterfall", "A chart of a sum, in which each bar starts where the previous one ended."),
)
"""Terms of the report for readers without a background in statistics or training."""

NOT_MEASURED: dict[str, str] = {
    "fidelity": "The predictions of the 16-bit and 4-bit models were not compared token by token. Set eval.fidelity: "
    "true to compare them.",
    "worst": "This report has no list of the items with the largest increase of loss: the loss rose on no item, or the "
    "report is older than this list. All answers are listed below.",
    "flips": "Exact match was not scored, so the report cannot show which answers turned from right to wrong.",
    "retention": "It was not measured what tuning made the model forget. Set eval.retention: true to measure it.",
    "declining": "No answers were generated, or refusals were not recorded.",
    "reliability": "Confidence was not compared with correctness, which needs generated answers of L16 and Q4 with "
    "their probabilities. Evaluate the study again to get them.",
    "judge": "No judge compared the answers. Set eval.judge_url and eval.judge_model to use one.",
    "votes": "There are no votes yet. On the Chat tab, turn on blind mode, ask questions and choose the better answer; "
    "then add the votes to the report.",
    "noise": "The effect of another scoring batch size was not measured. Set eval.noise_floor: true to measure it.",
    "seeds": "Each arm was trained once, so the variation of training is unknown. Set seeds: 3 to train each arm three "
    "times.",
    "waterfall": "The difference between L16 and Q4 cannot be split into steps, which needs cell L4 scored on the "
    "metric of the verdict. Add L4 to eval.cells.",
    "exports": "Only the assistants as trained were scored, no other exports. Add Q16, QD, QR, L4, LM and LR to "
    "eval.cells.",
    "untuned": "The results without tuning were not measured. Set eval.baselines: true to measure them.",
    "power": "The difference that this held-out set can detect is not on record.",
    "cost": "The hourly price of this machine is not set, so the report has no cost. Set eval.price_per_hour.",
}
"""Texts of sections without results, each with the setting that adds them."""
