"""The phrases by which declines are recognised: English, lower case, as regular expressions."""

from __future__ import annotations

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
    r"(?:answer|say|tell|help|assist|give|provide|find|confirm|determine|comment|respond|advise|share|discuss|"
    r"speak|judge|"
    r"verify|locate|address|access|offer|predict|see|view|look up|disclose)"
)

DECLINES: dict[str, str] = {
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
    "I am not equipped": r"\b(?:i am|i'm|we are|we're) (?:just |simply |really )?not (?:equipped|qualified|"
    r"trained|set up|"
    r"allowed|in a position|programmed|authori[sz]ed|permitted) to\b",
    "I cannot say": rf"\bi ?{_CANNOT} (?:\w+ )?{_TELL}\b",
    "we cannot say": rf"\bwe ?{_CANNOT} (?:\w+ )?(?:say|answer (?:that|this|your)|tell you|"
    r"help (?:you )?with (?:that|this))\b",
    "the assistant cannot say": rf"\b(?:this|the) (?:assistant|bot|chatbot|service|system) (?:cannot|can not|"
    rf"can't|is unable "
    rf"to|is not able to) (?:\w+ )?{_TELL}\b",
    "I can only help elsewhere": r"\bi(?: can|'m able to| am able to) only (?:answer|help|talk|speak|assist|"
    r"cover|discuss)\b",
    "I must decline": r"\b(?:i|we)(?:'ll| will)? (?:must|have to|need to) (?:decline|pass|refrain)\b|"
    r"\b(?:not|isn't|aren't) (?:something|anything) (?:that )?(?:i|we) (?:know|can|am able|could)\b",
    "I have not found it": r"\b(?:i|we)(?: have|'ve| was| were)? (?:not been able|been unable|unable|not able) to "
    r"(?:find|locate|determine|confirm|verify)\b|\bno (?:\w+ )?(?:results?|matches|entry|entries|answers?) "
    r"(?:was|were|are|is|could be)? ?(?:found|returned|available)\b",
    "bare refusal": r"^(?:(?:i'm |i am )?(?:very |so )?(?:sorry|apologies)[,.;:]? (?:but )?)?"
    r"(?:cannot|can't|can not|unable to|not able to) (?:answer|say|tell|help|find)\b",
    "cannot be answered": r"\b(?:cannot|can't|can not|could not) be (?:answered|inferred|deduced|"
    rf"(?:determined|told|found|established) (?:from|in) {_THE_SOURCE}(?!\w))(?!\w)|"
    rf"\b(?:this|that|the|it)(?: {_KNOWLEDGE}\b[^.!?]{{0,40}}?)? (?:cannot|can't|could not) be (?:determined|disclosed|"
    r"shared|established)\b",
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
    rf"(?:answer|information|mention|details|entry|entries|record)\b|\b{_THE_SOURCE} (?:says?|leaves? out|"
    rf"tells? (?:me |us )?)"
    r" ?(?:nothing|anything)\b|\bnothing (?:there|here|in it) (?:tells|says|mentions|covers|explains)\b",
    "not in the source": rf"\b(?:is not|are not|isn't|aren't|was not|not|never|nowhere) {_TOLD} "
    rf"(?:\w+ )?(?:in|by) {_THE_SOURCE}(?!\w)|\b(?:that|this|it|the answer)(?: is|'s) not in {_THE_SOURCE}(?!\w)",
    "not said": rf"\b(?:that|this|it|the answer)(?: is|'s) not (?:{_TOLD}|something i (?:know|can(?: \w+){{1,3}}))"
    r"(?=[.!,;]|$)",
    "nothing about it": rf"\b(?:no (?:information|mention|answer|details)|nothing) (?:\w+ )?(?:is |was |are )?"
    r"(?:(?:available|given|provided|said|stated)(?=[.!,;]|$| about| on| in)|"
    rf"(?:about|on|regarding|of|for)\b[^.]* in {_THE_SOURCE}|"
    rf"in {_THE_SOURCE})",
    "not enough information": r"\b(?:not enough|insufficient|no) (?:information|context|details?|data) to "
    rf"(?:answer|say|tell|know)\b|\b{_NOT} (?:hold|contain|have|give|provide|include) (?:enough|sufficient) "
    r"(?:\w+ )?(?:information|details?|context|data)\b",
    "none was given": r"\bno (?:information|info|details?|answer|data)\b[^.!?]{0,60}\b(?:was|were|is|are|has been|"
    r"have been) (?:supplied|given|provided|available|found|included|recorded|listed)\b",
    "outside the topics": r"\b(?:beyond|outside)(?: of)? (?:the |what )?(?:topics|things|questions|subjects|"
    r"areas?|scope)? "
    r"?(?:that )?(?:i|we) (?:am|was|were|are|can|know|have|handle|cover)\b",
    "out of scope": rf"\b(?:beyond|outside|out of)(?: of)? (?:my (?:\w+ )?(?:scope|knowledge|expertise|area|training)|"
    rf"the scope of {_THE_SOURCE}|what (?:i|we) (?:know|can))",
    "nothing else said": r"^(?:sorry[,.]? )?(?:unknown|n/a|insufficient (?:data|information|context)|none given|"
    r"no idea|"
    r"no answer|unanswerable|"
    rf"(?:(?:answer|it is|that is|this is) )?not (?:known|available|{_TOLD}))[.!]?$",
}
"""What counts as declining: a name for each kind, and the regular expression that finds it in folded text."""
