"""Recognition of refusals: answers in which the assistant declines to answer.

A list of English phrases, and the words in which the data itself teaches to decline; no model, so that the rule can be
read and gives the same result on every machine. An answer that states ignorance and then answers all the same counts as
a refusal; a refusal in another language is recognised only where the data teaches it.

``python -m benchmarks.refusal_agreement`` prints how far the rule agrees with labels given by hand. Its set ``blind``
was written by someone who had never seen the list, and the list has not been changed for it: it finds less than half
of those refusals, and takes hardly any other answer for one. Counts of refusals are therefore lower bounds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from evals.metrics.text import token_f1

_SOURCE = (
    r"(?:handbook|manual|guide(?:book|lines)?|document(?:s|ation)?|texts?|context|passages?|articles?|pages?|website|"
    r"leaflet|brochure|faqs?|catalogue|catalog|sources?|materials?|notes|records?|knowledge base|information|"
    r"data|policy|"
    r"policies|rules|regulations|instructions|section|extract|excerpt|snippet|paragraph|contents?|files?|index|logbook)"
)
_THE_SOURCE = rf"(?:the|this|that|these|those|my|our|your)(?: \w+){{0,4}}? {_SOURCE}(?: \w+){{0,3}}?"
_NOT = r"(?:does not|do not|did not|has not|have not|doesn't|don't|didn't|hasn't|haven't)"
_CANNOT = r"(?:cannot|can not|can't|could not|couldn't|am unable to|am not able to|'m unable to|'m not able to)"
_KNOWLEDGE = r"(?:information|info|answer|details?|data|specifics|figures?|facts?)"
_TOLD = (
    r"(?:said|mentioned|stated|specified|documented|described|addressed|discussed|recorded|listed|covered|given|found|"
    r"provided|supplied|included)"
)
_TELL = (
    r"(?:answer|say|tell|help|assist|give|provide|find|confirm|determine|comment|respond|advise|share|discuss|speak|"
    r"judge|verify|locate|address|access|offer|predict|see|view|look up|disclose)"
)

REFUSAL_PATTERNS: dict[str, str] = {
    "I do not know": r"\bi (?:really |simply |honestly |still )?(?:do not|don't|didn't|would not|wouldn't) "
    r"(?:actually )?know\b",
    "we do not know": r"\bwe (?:do not|don't) know(?: (?:that|this|the answer))?(?=[.!;,]|$)",
    "I have no information": r"\b(?:i|we) (?:(?:do not|don't) (?:currently |actually )?have|have no|lack)(?: \w+){0,3}"
    rf"? (?:{_KNOWLEDGE}|knowledge|idea|clue|record|way of (?:knowing|telling|viewing|seeing))\b",
    "I do not have it": r"\bi (?:do not|don't) have (?:access|the|any|that|those|this|your|enough)\b",
    "I would be guessing": r"\b(?:i|we)(?:'d| would) (?:only |just )?be (?:guessing|making)\b|"
    r"\b(?:i|we)(?:'d| would) rather not (?:answer|say|guess)\b",
    "I am not sure": r"\bi(?: am|'m) (?:really |quite )?(?:not (?:sure|certain|aware|familiar)|unsure|uncertain)\b|"
    r"^(?:hmm+,? |sorry,? |well,? )?(?:not sure|no idea|no clue|beats me|search me)\b",
    "I am not equipped": r"\b(?:i am|i'm|we are|we're) (?:just |simply |really )?not (?:equipped|qualified|trained|"
    r"set up|allowed|in a position|programmed|authori[sz]ed|permitted) to\b",
    "I cannot say": rf"\bi ?{_CANNOT} (?:\w+ )?{_TELL}\b",
    "we cannot say": rf"\bwe ?{_CANNOT} (?:\w+ )?(?:say|answer (?:that|this|your)|tell you|"
    r"help (?:you )?with (?:that|this))\b",
    "the assistant cannot say": rf"\b(?:this|the) (?:assistant|bot|chatbot|service|system) (?:cannot|can not|can't|is "
    rf"unable to|is not able to) (?:\w+ )?{_TELL}\b",
    "I can only help elsewhere": r"\bi(?: can|'m able to| am able to) only (?:answer|help|talk|speak|assist|"
    r"cover|discuss)\b",
    "I must decline": r"\b(?:i|we)(?:'ll| will)? (?:must|have to|need to) (?:decline|pass|refrain)\b|"
    r"\b(?:not|isn't|aren't) (?:something|anything) (?:that )?(?:i|we) (?:know|can|am able|could)\b",
    "I have not found it": r"\b(?:i|we)(?: have|'ve| was| were)? (?:not been able|been unable|unable|not able) to "
    r"(?:find|locate|determine|confirm|verify)\b|\bno (?:\w+ )?(?:results?|matches|entry|entries|answers?) "
    r"(?:was|were|are|is|could be)? ?(?:found|returned|available)\b",
    "bare refusal": r"^(?:(?:i'm |i am )?(?:very |so )?(?:sorry|apologies)[,.;:]? (?:but )?)?"
    r"(?:cannot|can't|can not|unable to|not able to) (?:answer|say|tell|help|find)\b",
    "cannot be answered": rf"\b(?:cannot|can't|can not|could not) be (?:answered|inferred|deduced|(?:determined|told|"
    rf"found|established) (?:from|in) {_THE_SOURCE}(?!\w))(?!\w)|\b(?:this|that|the|it)(?: "
    rf"{_KNOWLEDGE}\b[^.!?]{{0,40}}?)? (?:cannot|can't|could not) be (?:determined|disclosed|shared|established)\b",
    "impossible to tell": r"\b(?:impossible|not possible) to (?:tell|say|know|determine|answer)\b",
    "not clear from the source": rf"\b(?:is not|isn't|not) (?:clear|known|obvious) from {_THE_SOURCE}(?!\w)|"
    rf"\bunclear from {_THE_SOURCE}(?!\w)",
    "not available here": rf"\b(?:this|that|the|your|such) (?:\w+ )?{_KNOWLEDGE} (?:is|are|was|were|has|have)"
    rf"(?: not|n't) (?:been )?(?:\w+ )?(?:available|present|{_TOLD})\b",
    "I was not told": r"\bi (?:was not|wasn't|have not been|haven't been) (?:told|given|taught|trained)\b",
    "the source does not say": rf"(?<!although )(?<!though )\b{_THE_SOURCE} {_NOT} (?:\w+ly )?"
    r"(?:say|said|state|mention|specify|address|indicate|answer|discuss|tell)\b(?! that \w)",
    "the source does not contain it": rf"(?<!although )(?<!though )\b{_THE_SOURCE} {_NOT} (?:\w+ly )?(?:cover|contain|"
    r"include|provide|give|list|have|hold|explain|describe) (?:that|this|it|an answer|the answer|any|enough|details|"
    r"information|your question|the (?:information|question))\b",
    "the source is silent": rf"\b{_THE_SOURCE} (?:is|are) silent\b|\b{_THE_SOURCE} (?:has|have|gives?|contains?) no "
    rf"(?:answer|information|mention|details|entry|entries|record)\b|\b{_THE_SOURCE} (?:says?|leaves? out|tells? "
    rf"(?:me |us )?) ?(?:nothing|anything)\b|\bnothing (?:there|here|in it) (?:tells|says|mentions|covers|explains)\b",
    "not in the source": rf"\b(?:is not|are not|isn't|aren't|was not|not|never|nowhere) {_TOLD} "
    rf"(?:\w+ )?(?:in|by) {_THE_SOURCE}(?!\w)|\b(?:that|this|it|the answer)(?: is|'s) not in {_THE_SOURCE}(?!\w)",
    "not said": rf"\b(?:that|this|it|the answer)(?: is|'s) not (?:{_TOLD}|something i (?:know|can(?: \w+){{1,3}}))"
    r"(?=[.!,;]|$)",
    "nothing about it": rf"\b(?:no (?:information|mention|answer|details)|nothing) (?:\w+ )?(?:is |was |are "
    rf")?(?:(?:available|given|provided|said|stated)(?=[.!,;]|$| about| on| in)|(?:about|on|regarding|of|for)\b[^.]* "
    rf"in {_THE_SOURCE}|in {_THE_SOURCE})",
    "not enough information": r"\b(?:not enough|insufficient|no) (?:information|context|details?|data) to "
    rf"(?:answer|say|tell|know)\b|\b{_NOT} (?:hold|contain|have|give|provide|include) (?:enough|sufficient) "
    r"(?:\w+ )?(?:information|details?|context|data)\b",
    "none was given": r"\bno (?:information|info|details?|answer|data)\b[^.!?]{0,60}\b(?:was|were|is|are|has been|"
    r"have been) (?:supplied|given|provided|available|found|included|recorded|listed)\b",
    "outside the topics": r"\b(?:beyond|outside)(?: of)? (?:the |what )?(?:topics|things|questions|subjects|areas?|"
    r"scope)? ?(?:that )?(?:i|we) (?:am|was|were|are|can|know|have|handle|cover)\b",
    "out of scope": rf"\b(?:beyond|outside|out of)(?: of)? (?:my (?:\w+ )?(?:scope|knowledge|expertise|area|training)|"
    rf"the scope of {_THE_SOURCE}|what (?:i|we) (?:know|can))",
    "nothing else said": rf"^(?:sorry[,.]? )?(?:unknown|n/a|insufficient (?:data|information|context)|none given|no "
    rf"idea|no answer|unanswerable|(?:(?:answer|it is|that is|this is) )?not (?:known|available|{_TOLD}))[.!]?$",
}
"""Name of each kind of refusal → the regular expression that finds it in case-folded text."""

_REFUSAL = re.compile("|".join(f"(?:{pattern})" for pattern in REFUSAL_PATTERNS.values()))
_TAUGHT_F1 = 0.75  # token F1 with a refusal of the data from which an answer counts as a refusal


def is_refusal(answer: str, taught: Collection[str] = ()) -> bool:
    """Whether an answer declines to answer, or shares most of its words with a refusal that the data teaches.

    Quotations inside an answer are not the assistant's own words and are ignored.
    """
    if any(token_f1(answer, refusal) >= _TAUGHT_F1 for refusal in taught):
        return True
    folded = unicodedata.normalize("NFKC", answer).casefold()
    folded = re.sub("[‘’ʼ]", "'", re.sub("[“”„«»]", '"', folded))
    folded = " ".join(folded.split()).strip('" ')
    folded = re.sub(r'"[^"]*"', " ", folded)
    return _REFUSAL.search(folded.strip()) is not None
