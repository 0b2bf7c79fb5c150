"""An Ollama Modelfile over the merged weights, its template checked against the model's own chat template, and its use.

A family is recognised by rendering conversations with it and with the chat template. If no family renders exactly the
same text, the Modelfile has a comment instead of a template, because a slightly wrong prompt reduces quality unnoticed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from assistant_builder.data import Message
from assistant_builder.export.adapter import render
from assistant_builder.i18n import Text, m
from assistant_builder.models.chat_template import ChatTokenizer

Turns = Sequence[tuple[str, str]]
_SHOWN = 80
"""Longest extract of a token that a message shows, in characters."""
_PROBES: tuple[Turns, ...] = (
    (("user", "Is this one question?"),),
    (
        ("user", "First question?\n\nIn two parts."),
        ("assistant", "First answer."),
        ("user", "And now?"),
    ),
)


@dataclass(frozen=True)
class Family:
    """How a family of models writes a conversation."""

    name: str
    user: tuple[str, str]  # text before and after a question
    assistant: tuple[str, str]  # text before and after an answer
    # text before and after the system prompt; None: the system prompt is part of a question
    system: tuple[str, str] | None = None
    system_in: Literal["first", "last"] = "first"  # the question that contains it in that case
    # text that precedes the answer to be generated; None: the text before an answer
    opening: str | None = None
    stops: tuple[str, ...] = ()  # texts at which generation ends

    @property
    def header(self) -> str:
        """Text that precedes the answer to be generated."""
        return self.assistant[0] if self.opening is None else self.opening

    def render(self, system: str | None, turns: Turns) -> str:
        """The prompt for the answer to the last of ``turns``."""
        parts = (
            [self.system[0], system, self.system[1]] if self.system and system is not None else []
        )
        bearer = 0 if self.system_in == "first" else len(turns) - 1
        for place, (role, text) in enumerate(turns):
            before, after = self.user if role == "user" else self.assistant
            if system and self.system is None and place == bearer:
                text = f"{system}\n\n{text}"
            parts += [before, text, after]
        return "".join([*parts, self.header])

    def go_template(self) -> str:
        """The same as a template of Go's text/template, over Ollama's ``.Messages`` and ``.System``.

        It has no trim markers, so that line breaks of the format are kept.
        """
        user = "{{ .Content }}"
        if self.system is None:
            where = "le $i 1" if self.system_in == "first" else "eq (len (slice $.Messages $i)) 1"
            user = f"{{{{ if and $.System ({where}) }}}}{{{{ $.System }}}}\n\n{{{{ end }}}}{{{{ .Content }}}}"
        branches = [("user", self.user, user), ("assistant", self.assistant, "{{ .Content }}")]
        if self.system is not None:
            branches.insert(0, ("system", self.system, "{{ .Content }}"))
        body = "".join(
            f'{{{{ {"else " if place else ""}if eq .Role "{role}" }}}}{before}{content}{after}'
            for place, (role, (before, after), content) in enumerate(branches)
        )
        return "{{ range $i, $m := .Messages }}" + body + "{{ end }}{{ end }}" + self.header


def _headed(
    name: str, head: str, end: str, *, opening: str | None = None, assistant: str = "assistant"
) -> Family:
    system, user, answer = ((head.format(role), end) for role in ("system", "user", assistant))
    return Family(name, user, answer, system, opening=opening, stops=(end.strip(),))


_THOUGHTLESS = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
_MISTRAL = Family("Mistral", ("[INST] ", "[/INST]"), (" ", "</s>"), opening="", stops=("</s>",))
_GEMMA = "<start_of_turn>{}\n", "<end_of_turn>\n"
FAMILIES = (
    _headed("ChatML (SmolLM2, Qwen)", "<|im_start|>{}\n", "<|im_end|>\n"),
    _headed(
        "ChatML without thinking (Qwen3)", "<|im_start|>{}\n", "<|im_end|>\n", opening=_THOUGHTLESS
    ),
    _headed("Llama 3", "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"),
    replace(_headed("Gemma", *_GEMMA, assistant="model"), system=None),
    _MISTRAL,
    replace(_MISTRAL, name="Mistral, system prompt last", system_in="last"),
    _headed("Phi-3", "<|{}|>\n", "<|end|>\n"),
    _headed("Phi-4-mini", "<|{}|>", "<|end|>"),
    _headed("Granite", "<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>\n"),
)


@dataclass(frozen=True)
class Match:
    """A family that renders exactly what the chat template renders."""

    family: Family
    # the system prompt as the template writes it: the study's, or the model's default; None: there is none
    system: str | None
    adds_bos: bool  # whether the template begins with the BOS token, which Ollama adds by itself


def match_family(prompter: ChatTokenizer, system: str) -> Match | None:
    """Find the family that renders exactly the chat template of ``prompter`` with the study's system prompt."""
    before = [Message("system", system)] if system else []
    wanted = [
        prompter.text([*before, *(Message(role, text) for role, text in turns)], prompt=True)  # type: ignore[arg-type]
        for turns in _PROBES
    ]
    bos = str(prompter.tokenizer.bos_token or "")
    for adds_bos in (False, True):
        if adds_bos and not (bos and all(text.startswith(bos) for text in wanted)):
            continue
        texts = [text[len(bos) :] if adds_bos else text for text in wanted]
        for family in FAMILIES:
            slot = _system_slot(family, texts[0], system)
            if [family.render(slot, turns) for turns in _PROBES] == texts:
                return Match(family, slot, adds_bos)
    return None


def _system_slot(family: Family, text: str, system: str) -> str | None:
    """The text that the chat template writes as system prompt; a template may add a date or a default."""
    if family.system is None:
        return system or None
    head, tail = family.system
    end = text.find(tail + family.user[0] + _PROBES[0][0][1])
    return text[len(head) : end] if text.startswith(head) and end >= len(head) else None


def modelfile(
    match: Match | None,
    prompter: ChatTokenizer,
    *,
    system: str,
    title: str,
    varied: bool,
    weights: str = ".",
) -> str:
    """The Modelfile.

    Args:
        match: The family whose template is written.
        prompter: Tokenizer of the base.
        system: System prompt of the study; empty without one.
        title: Title of the export.
        varied: Whether training pairs have system prompts of their own.
        weights: Path of the weights, from the folder of the Modelfile.
    """
    shown, stops = _model_values(match, prompter, system)
    plain = "".join(character if character.isprintable() else " " for character in title)
    return render(
        "Modelfile.j2",
        heading=" ".join(plain.split()),  # a comment ends with its line
        weights=weights,
        match=match,
        system=None if shown is None or _parse_problem(shown) else shown,
        varied=varied,
        stops=[stop for stop in stops if not _parse_problem(stop)],
        omitted=omitted_values(match, prompter, system),
    )


def omitted_values(match: Match | None, prompter: ChatTokenizer, system: str) -> list[Text]:
    """One line for each value that the Modelfile omits because Ollama cannot parse it, with the remedy."""
    shown, stops = _model_values(match, prompter, system)
    sentences: list[Text] = []
    if shown and (why := _parse_problem(shown)):
        sentences.append(
            m(
                "The Modelfile has no SYSTEM command: in the system prompt {why}. Send the system prompt with each "
                "question.",
                why=why,
            )
        )
    sentences += [
        m(
            "The Modelfile has no stop for the token {ascii}: in it {why}. Give the stop with each request.",
            ascii=ascii(stop)[:_SHOWN],
            why=why,
        )
        for stop in stops
        if (why := _parse_problem(stop))
    ]
    return sentences


def _model_values(
    match: Match | None, prompter: ChatTokenizer, system: str
) -> tuple[str | None, list[str]]:
    if match is not None:
        return match.system, list(match.family.stops)
    stops = [str(prompter.tokenizer.convert_ids_to_tokens(token)) for token in prompter.stop_ids]
    # an empty stop would end every answer before it begins
    return system, [stop for stop in stops if stop]


def _parse_problem(text: str) -> Text:
    """Why Ollama would not parse a value unchanged; empty if it would.

    Its parser (``ParseFile`` and ``unquote`` in ``parser/parser.go``) has no escapes. It ends a value in three
    quotation marks at the first line that ends with three, and what follows is a command. It drops every character that
    Go's ``strconv.IsPrint`` rejects, apart from tabs and line breaks.
    """
    *ended, _ = re.split(r"[\r\n]", text)
    if any(line.rstrip(" \t").endswith('"""') for line in ended):
        return m("a line ends with three quotation marks, which would end the value")
    for character in text:
        if not character.isprintable() and character not in "\t\r\n":
            return m(
                "there is the character U+{code}, which Ollama drops", code=f"{ord(character):04X}"
            )
    return ""


def create_command(folder: Path, name: str) -> str:
    """The shell command that makes an export a model of Ollama, which copies the weights to a folder of its own."""
    return f"cd {shlex.quote(str(folder))} && {shlex.join(['ollama', 'create', name, '-f', 'Modelfile'])}"
