"""What every report says alike: names of the cells, published results to place one's own against, words explained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CellText:
    """How a cell is called: ``label`` in tables, ``about`` where it is explained."""

    label: str
    about: str


CELL_TEXTS: dict[str, CellText] = {
    "B16": CellText("Untuned, 16-bit", "the base model in float16, before any training"),
    "B4": CellText("Untuned, 4-bit", "the base model stored in 4 bits, before any training"),
    "L16": CellText("LoRA, 16-bit", "the baseline: adapter trained on the float16 base, answering on it"),
    "Q4": CellText("QLoRA, 4-bit", "QLoRA as served: adapter trained on the 4-bit base, answering on it"),
    "L4": CellText("LoRA adapter, 4-bit base", "the 16-bit-trained adapter put on the 4-bit base"),
    "Q16": CellText("QLoRA adapter, 16-bit base", "QLoRA's adapter moved to the full base, as most tools export it"),
    "QD": CellText("QLoRA export", "QLoRA's adapter merged into its own dequantized base"),
    "QR": CellText("QLoRA export, requantized", "that export quantized to 4 bits again"),
    "LM": CellText("LoRA export", "the 16-bit adapter merged into the float16 base"),
    "LR": CellText("LoRA export, quantized", "tuned in 16-bit, quantized to 4 bits afterwards"),
}

CONTEXT: tuple[dict[str, str], ...] = (
    {"what": "Mean 5-shot MMLU over 8 tunings", "lora": "53.0", "qlora": "53.1",
     "note": "single tunings between −1.3 and +1.4", "source": "QLoRA paper, arXiv:2305.14314"},
    {"what": "Phi-2 on GSM8K", "lora": "64.8 ± 0.5", "qlora": "60.2 ± 0.6", "note": "",
     "source": "LoftQ README, github.com/yxli2123/LoftQ"},
    {"what": "Llama-3-8B on GSM8K", "lora": "69.3 ± 1.5", "qlora": "67.4 ± 1.0", "note": "",
     "source": "LoftQ README, github.com/yxli2123/LoftQ"},
    {"what": "Llama-3-70B, 10,000 medical pairs", "lora": "86%", "qlora": "82%",
     "note": "4 points, or 4.7% of 86; 8 × A100 against 1 × A100 for 14 h",
     "source": "unpublished example, no interval given"},
    {"what": "Typical claim", "lora": "", "qlora": "1–3% below", "note": "seldom with an interval or a 16-bit twin",
     "source": "common statement"},
)
"""Published 16-bit LoRA and QLoRA results. Other models, data and metrics: orders of magnitude, not targets."""

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("16-bit, 4-bit", "How many bits store one weight of the frozen base model. 4-bit here is NF4, which QLoRA uses: "
     "about a quarter of the memory, and each weight is rounded to one of 16 values."),
    ("95% interval", "The range of differences that fit the data. Were the study repeated with new questions of the "
     "same kind, 95 of 100 such ranges would hold the true difference."),
    ("adapter", "The small set of weights that training changes (LoRA). The base model itself stays frozen."),
    ("baseline", "What the comparison is made against: the twin trained on the float16 base."),
    ("cluster", "Questions that belong together, such as several phrasings of one fact. They rise and fall together, "
     "so they count as less than that many independent questions."),
    ("cell", "One combination of base model (16-bit or 4-bit) and adapter (none, LoRA, QLoRA)."),
    ("held-out", "Questions kept aside before training and used for nothing but this test."),
    ("loss, nats per token", "The mean negative log-probability that the assistant gives to the words of the reference "
     "answer. 0 would be certainty. 0.01 nats more is about 1% more perplexity."),
    ("LoRA, QLoRA", "Two ways to fine-tune. Both train the same adapter; LoRA over the base in 16 bits, QLoRA over the "
     "base in 4 bits."),
    ("margin", "The largest loss of quality you said you would still accept, fixed before the run."),
    ("p-value", "How often a difference at least this large would come up if the two assistants were equally good. "
     "Small means hard to put down to luck. Holm's adjustment pays for testing several metrics at once."),
    ("paired", "Both assistants answer the same questions and are compared question by question, so hard and easy "
     "questions cancel out."),
    ("perplexity", "The exponential of the loss: among how many equally likely tokens the assistant hesitates."),
    ("points", "Differences of scores that run from 0 to 100. From 64% to 62% is 2 points, not 2%."),
    ("twins", "Two training runs alike in data, order, seed, settings and number of steps. Only the storage of the "
     "frozen base differs, so that what differs in the result comes from there."),
)
"""Words of the report for readers who do not do statistics or training."""
