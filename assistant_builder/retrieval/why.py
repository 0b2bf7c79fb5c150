"""Why a question was declined, in words: which evidence was low, and what to add to the data."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

from assistant_builder.i18n import Message, Text, joined, m

if TYPE_CHECKING:
    from assistant_builder.retrieval.decline import DeclineRule, Evidence

_LOW = 0.25
"""Log-odds that an evidence must take from the question to be named."""
_MOST = 2  # kinds of evidence that are named


def _in_words() -> dict[str, Message]:
    return {
        "similarity": m("No question of the data is worded much like this one."),
        "certainty": m("Several answers of the data fit it about equally well."),
        "nearby": m("A question that the data decline is about as near."),
        "probability": m("The assistant was not sure of the first words of its answer."),
        "grounded": m("The answer that the assistant began is none of the facts that it read."),
    }


def low_evidence(evidence: Evidence, rule: DeclineRule, names: tuple[str, ...]) -> list[str]:
    """The kinds of evidence that speak most against an answer, the strongest first; one at least.

    Args:
        evidence: What was judged.
        rule: The rule that judged it.
        names: The kinds that may be named, in the order of the fields of the evidence.
    """
    if evidence.nearby < 0:  # no other evidence counts
        return ["nearby"]
    values = zip(astuple(evidence), rule.center, rule.scale, strict=True)
    standard = [(value - center) / scale for value, center, scale in values]
    shares = [weight * value for weight, value in zip(rule.weights, standard, strict=True)]
    ordered = sorted(zip(shares, names, strict=False), key=lambda each: each[0])
    low = [name for share, name in ordered if share < -_LOW][:_MOST] or [ordered[0][1]]
    similarity, certainty, *_ = standard
    far = similarity < certainty  # what is far from everything has a small share, too
    return list(
        dict.fromkeys("similarity" if far and name == "certainty" else name for name in low)
    )


def why_declined(
    evidence: Evidence,
    rule: DeclineRule,
    names: tuple[str, ...],
    nearest: tuple[str, float] | None,
) -> tuple[Text, Text]:
    """Why a question was declined, and what to add so that it is answered.

    Args:
        evidence: As of :func:`low_evidence`.
        rule: As of :func:`low_evidence`.
        names: As of :func:`low_evidence`.
        nearest: Question and cosine similarity of the best fact; ``None`` if none was found.
    """
    if nearest is None:
        return (
            m("No answer of the data can be looked up for it."),
            m("Add a row with the question and its answer to your data."),
        )
    found = m(
        "The nearest question of the data is “{question}” (similarity {similarity:.2f}). The confidence is "
        "{confidence:.2f}, and {threshold:.2f} is needed.",
        question=nearest[0],
        similarity=nearest[1],
        confidence=rule.confidence(evidence),
        threshold=rule.threshold,
    )
    words = _in_words()
    low = [words[name] for name in low_evidence(evidence, rule, names)]
    advice = m(
        "If “{question}” asks the same, add this wording with the same answer to your data. If not, add a row with "
        "this question and its answer.",
        question=nearest[0],
    )
    return joined([found, *low]), advice
