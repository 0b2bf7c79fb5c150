"""What every report says alike: names of the cells, published results to place one's own against, words explained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CellText:
    """How a cell is called: ``label`` in tables, ``about`` where it is explained."""

    label: str
    about: str


BASELINE_TEXTS: dict[str, CellText] = {
    "copy": CellText("Copied answer", "no model: the answer of the training question nearest to the one asked"),
    "retrieval": CellText("Untuned, with examples", "the untuned float16 base, shown the three nearest training pairs "
                          "as earlier turns of the chat (fewer where they do not fit)"),
}
"""What anybody gets without tuning; told apart from the cells, which are combinations of base and adapter."""


def baseline_text(name: str, base: str | None) -> CellText:
    """How an untuned baseline is called.

    Args:
        name: A key of ``BASELINE_TEXTS``.
        base: How its base is stored, ``float16`` or ``4-bit``; None: it has none, or the record does not say.
    """
    text = BASELINE_TEXTS[name]
    return text if base != "4-bit" else CellText(text.label, text.about.replace("float16 base", "4-bit base"))


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
    ("16-bit, 4-bit", "How many bits store one weight of the frozen base model. In 4 bits (QLoRA's are called NF4) a "
     "weight takes about a quarter of the memory, and is rounded to one of 16 values."),
    ("95% interval", "The range of differences that fit the data. Were the study repeated with new questions of the "
     "same kind, 95 of 100 such ranges would hold the true difference."),
    ("adapter", "The small set of weights that training changes (LoRA). The base model itself stays frozen."),
    ("baseline", "What the comparison is made against: the twin trained on the float16 base. An untuned baseline is "
     "what you would get without training anything."),
    ("calibration, reliability", "Whether a model's confidence can be trusted: of the answers it finds 70% likely, 7 "
     "in 10 should be right. ECE is the mean gap between the two, the Brier score the mean squared error; 0 is best."),
    ("cell", "One combination of base model (16-bit or 4-bit) and adapter (none, LoRA, QLoRA)."),
    ("chrF", "Overlap of runs of letters between answer and reference. It forgives other word forms, and sees next to "
     "nothing of a wrong digit."),
    ("cluster", "Questions that belong together, such as several phrasings of one fact. They rise and fall together, "
     "so they count as less than that many independent questions."),
    ("contrast", "The difference between two cells on the same items, such as Q4 − L16: first minus second."),
    ("declining", "Answering that one does not know. Right where the question cannot be answered, wrong elsewhere."),
    ("export", "What you take away to serve: the adapter alone, or a merged model. An export can behave otherwise than "
     "what was measured, so each is scored by itself."),
    ("facts kept", "The share of the reference's numbers with units, codes and capitalised names that the answer "
     "repeats."),
    ("flip", "An item that is right under one assistant and wrong under the other. Losses and gains can cancel out in "
     "a mean; flips do not."),
    ("held-out", "Questions kept aside before training and used for nothing but this test."),
    ("judge", "Another language model that is asked which of two answers is better. It sees each pair in both orders; "
     "if its choice depends on the order, that is a tie."),
    ("KL divergence", "How far one model's predictions of the next token lie from another's, in nats: 0 if they are "
     "the same. It shows changes that leave the first choice, and so the accuracy, as it was."),
    ("LoRA, QLoRA", "Two ways to fine-tune. Both train the same adapter; LoRA over the base in 16 bits, QLoRA over the "
     "base in 4 bits."),
    ("loss, nats per token", "The mean negative log-probability that the assistant gives to the words of the reference "
     "answer. 0 would be certainty. 0.01 nats more is about 1% more perplexity."),
    ("margin", "The largest loss of quality you said you would still accept, fixed before the run."),
    ("merge", "To add the adapter into the base's weights for good, so that one model is left to serve."),
    ("minimum detectable difference", "The smallest true difference that a study of this size would usually find. "
     "“No clear difference” means little about anything smaller."),
    ("noise floor", "What changes when nothing but the arithmetic does, here by scoring in batches of another size. A "
     "difference no larger than that is no finding."),
    ("p-value", "How often a difference at least this large would come up if the two assistants were equally good. "
     "Small means hard to put down to luck. Holm's adjustment pays for testing several metrics at once."),
    ("paired", "Both assistants answer the same questions and are compared question by question, so hard and easy "
     "questions cancel out."),
    ("percentile, p99", "The value that 99 of 100 tokens stay below: how bad the worst hundredth gets."),
    ("perplexity", "The exponential of the loss: among how many equally likely tokens the assistant hesitates."),
    ("points", "Differences of scores that run from 0 to 100. From 64% to 62% is 2 points, not 2%."),
    ("power", "The chance that a study finds a difference that is really there."),
    ("requantize", "To round to 4 bits again what was merged in 16 bits. The adapter is rounded with it."),
    ("retention", "What the model still knows of things it was not trained on. Tuning can make it forget."),
    ("retrieval", "Looking up the most similar training questions and showing them to the untuned model with their "
     "answers: an alternative to tuning."),
    ("seed", "The number that decides the chance events of training, such as the order of the data. Another seed gives "
     "another adapter, and another result."),
    ("top-1 agreement", "How often two models put the same token first."),
    ("twins", "Two training runs alike in data, order, seed, settings and number of steps. Only the storage of the "
     "frozen base differs, so that what differs in the result comes from there."),
    ("waterfall", "A picture of a sum: each bar starts where the one before it ended."),
)
"""Words of the report for readers who do not do statistics or training."""

NOT_MEASURED: dict[str, str] = {
    "fidelity": "Token by token, the 16-bit and the 4-bit models were not compared. eval.fidelity: true turns that on.",
    "worst": "Which items lost most is not on record in this report. On no item did the loss rise, or the report is "
             "older than this list; the answers further down are all there.",
    "flips": "Exact match was not scored, so no answer can be told to have turned from right to wrong.",
    "retention": "What tuning made the model forget was not measured. eval.retention: true turns that on.",
    "declining": "No answers were generated, or declining was not recorded.",
    "reliability": "Confidence was not set against correctness: no answers were scored together with their "
                   "probabilities. It needs generated answers of L16 and Q4; evaluate again to get them.",
    "judge": "No judge was asked. eval.judge_url and eval.judge_model name one.",
    "votes": "Nobody has voted. On the Chat tab, turn on blind mode, ask, and say which answer is better; then write "
             "the votes into the report.",
    "noise": "What another scoring batch alone would change was not measured. eval.noise_floor: true turns that on.",
    "seeds": "Each arm was trained once, so how much luck there is in training is unknown: seeds: 3 trains each arm "
             "three times.",
    "waterfall": "The way from L16 to Q4 cannot be split into its steps: it needs cell L4, scored on the metric of the "
                 "verdict. Add L4 to eval.cells.",
    "exports": "No export beside the assistants as trained was scored. Add Q16, QD, QR, L4, LM and LR to eval.cells.",
    "untuned": "What one gets without tuning was not measured. eval.baselines: true turns that on.",
    "power": "What this held-out set can detect is not on record.",
    "cost": "What an hour of this machine costs was not told, so there is no price here. eval.price_per_hour sets it.",
}
"""Said where a section has nothing to show, with the setting that changes that."""
