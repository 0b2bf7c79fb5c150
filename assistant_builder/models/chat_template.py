"""Tokenization of question-answer pairs with the base model's chat template and a fixed date. Does not import torch.

The training tokens of a turn start with exactly the tokens of its prompt. The supervised part is the answer with its
end-of-turn token.

Templates such as those of Llama 3.2, Granite and SmolLM3 call ``strftime_now``, for which transformers
(``utils/chat_template_utils.py``) inserts the current day, so that prompts would differ from day to day. Transformers 5
does not accept callables in ``apply_chat_template``, so the template gets a macro of the same name, which takes
precedence over the global function in Jinja. Templates with the variable ``date_string`` need no change: it is never
set, so they use their default (Llama 3.1) or call ``strftime_now`` (Llama 3.2).
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.data import Message, Pair
from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.models.checkpoint_dir import UNKNOWN_LENGTH, context_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FUNCTION = "strftime_now"
# conversion characters of glibc's ``strftime``; the second part is without padding
_DIRECTIVES = (
    *"aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ",
    *("-" + letter for letter in "deHIjmMSUVWy"),
)
_PERCENT = "\ue000"  # placeholder for an escaped percent sign while the directives are replaced
_HEAD = "{% macro strftime_now(format) %}"


def asks_for_date(template: object) -> bool:
    """Return whether a chat template, or one of several by name, uses today's date."""
    if isinstance(template, dict):
        return any(asks_for_date(one) for one in template.values())
    return isinstance(template, str) and _FUNCTION in template


def with_date(template: str, day: date) -> str:
    """Return a chat template with ``day`` at midnight instead of the current time; others are returned unchanged.

    transformers renders with ``trim_blocks``, which drops the line break after the macro.
    """
    if not asks_for_date(template) or template.startswith(_HEAD):
        return template
    moment = datetime.combine(day, time())
    written = [(f"%{directive}", moment.strftime(f"%{directive}")) for directive in _DIRECTIVES]
    steps = [("%%", _PERCENT), *written, (_PERCENT, "%")]
    chain = "".join(f"|replace({_quoted(old)}, {_quoted(new)})" for old, new in steps)
    return f"{_HEAD}{{{{ format{chain} }}}}{{% endmacro %}}\n{template}"


def _quoted(text: str) -> str:
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t"}
    return f"'{''.join(escapes.get(character, character) for character in text)}'"


PLAIN_TEMPLATE = (  # for base models without a chat template, after their BOS token
    "{% for message in messages %}{% if message['role'] == 'assistant' %}### Answer:\n"
    "{{ message['content'] }}{{ eos_token }}\n\n"
    "{% elif message['role'] == 'user' %}### Question:\n{{ message['content'] }}\n\n"
    "{% else %}{{ message['content'] }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Answer:\n{% endif %}"
)

MAX_TEMPLATE_CHARACTERS = 1_000_000  # that a template may add to a conversation
MAX_TEXT_REPETITIONS = 16  # of the characters of a conversation
MAX_TOKENS_PER_CHARACTER = 100
"""A character has at most four byte tokens, and Unicode decomposes it into at most 18 characters."""
# the longest tokens of published vocabularies have some hundred spaces
MAX_CHARACTERS_PER_TOKEN = 4_096
_MAX_REASON_CHARACTERS = 500

# serializes the import of transformers, which replaces its module during the import: another thread that imports it at
# the same time could get the incomplete module
_IMPORTING = threading.Lock()
# end-of-turn tokens of templates whose tokenizer has another end-of-sequence token
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


@dataclass(frozen=True)
class Turn:
    """An assistant turn for scoring or generation."""

    prompt_ids: tuple[int, ...]  # with the header of the assistant's turn
    answer_ids: tuple[int, ...]  # with its end-of-turn token
    reference: str  # the answer as text
    prompt_text: str
    answer_text: str


@dataclass(frozen=True)
class Example:
    """A training sequence; ``supervised`` states for each token whether the loss includes it."""

    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]


class ChatTokenizer:
    """Tokenizer and chat template of one base model.

    ``day`` is the date for templates with today's date, by default the current day; ``context`` the number of tokens
    that a prompt and its answer may have together.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        day: date | None = None,
        context: int = UNKNOWN_LENGTH,
    ) -> None:
        self.tokenizer, self.context = tokenizer, context
        if not tokenizer.chat_template:
            # the base expects the token if its tokenizer adds it to plain text, as servers do
            adds_bos = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
            tokenizer.chat_template = ("{{ bos_token }}" if adds_bos else "") + PLAIN_TEMPLATE
        if day is not None:
            tokenizer.chat_template = _with_fixed_date(tokenizer.chat_template, day)
        added = (token for token in tokenizer.added_tokens_decoder.values() if token.special)
        special = {token.content for token in added} | set(map(str, tokenizer.all_special_tokens))
        longest_first = sorted(special, key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.eos_id: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else pad
        ends = {self.eos_id, *map(tokenizer.convert_tokens_to_ids, _END_OF_TURN)}
        self.stop_ids: list[int] = sorted(ends - {None, tokenizer.unk_token_id})

    @classmethod
    def load(cls, folder: Path, day: date | None = None) -> ChatTokenizer:
        """Load the tokenizer of a base model's folder without network access.

        Raises:
            ModelError: The folder has no fast tokenizer or no config.json.
        """
        with _IMPORTING:
            from transformers import PreTrainedTokenizerFast  # does not import torch

        if not (folder / "tokenizer.json").is_file():
            raise ModelError(
                m("the base model has no tokenizer.json"),
                where=str(folder),
                remedy=m("Save it with AutoTokenizer.from_pretrained(…).save_pretrained(folder)"),
            )
        # the folder of an adapter or of a tokenizer alone has no config
        context = context_length(folder) if (folder / "config.json").is_file() else UNKNOWN_LENGTH
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
            return cls(tokenizer, day, context)
        except (MemoryError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a PanicException of the Rust code is not an Exception
            reason = f"{type(error).__name__}: {error}"[:_MAX_REASON_CHARACTERS]
            raise ModelError(
                m("the tokenizer cannot be read ({reason})", reason=reason),
                where=str(folder),
                remedy=m(
                    "Copy tokenizer.json, tokenizer_config.json and chat_template.jinja again from the source of the "
                    "model, or choose another base model"
                ),
            ) from error

    # text

    def text(self, messages: Sequence[Message], *, prompt: bool) -> str:
        """Render a conversation, with ``prompt`` followed by the header of the assistant's next turn.

        Raises:
            ModelError: The template refuses the conversation, or the result is far too long.
        """
        turns = self.escaped_turns(messages)
        given = sum(len(turn["content"]) for turn in turns)
        rendered = self._rendered(turns, prompt)
        if len(rendered) > MAX_TEXT_REPETITIONS * given + MAX_TEMPLATE_CHARACTERS:
            raise ModelError(
                m(
                    "the base model's chat template turns {given:,} characters into {rendered:,}",
                    given=given,
                    rendered=len(rendered),
                ),
                remedy=m("Choose another base model, or correct its chat template"),
            )
        return rendered

    def escaped_turns(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """Return the turns that the template renders, with special tokens in their text broken up."""
        return [
            {"role": message.role, "content": self._escape_special_tokens(message.content)}
            for message in messages
        ]

    def _rendered(self, turns: list[dict[str, str]], prompt: bool) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=prompt, enable_thinking=False
            )
            if not isinstance(rendered, str):
                raise TypeError(f"the result is {type(rendered).__name__} instead of text")
            return rendered
        except MemoryError:
            raise
        except Exception as error:  # a template may raise any exception
            # the system prompt is prepended for templates without this role
            if turns and turns[0]["role"] == "system" and len(turns) > 1:
                system, first, *rest = turns
                question = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
                return self._rendered([question, *rest], prompt)
            raise ModelError(
                m(
                    "the base model's chat template refuses the conversation: {error}",
                    error=str(error)[:_MAX_REASON_CHARACTERS],
                ),
                remedy=m("Use turns that alternate between user and assistant"),
            ) from error

    def _escape_special_tokens(self, text: str) -> str:
        if self._hidden_specials and self._specials.search(plain := self._normalised(text)):
            text = plain  # found only in normalized text, as in fullwidth ＜|im_end|＞
        broken = self._specials.sub(lambda match: f"{match[0][0]}\u200b{match[0][1:]}", text)
        if self._hidden_specials and self._specials.search(self._normalised(broken)):
            return self._specials.sub(lambda match: " ".join(match[0]), text)  # U+200B is dropped
        return broken

    @functools.cached_property
    def _hidden_specials(self) -> bool:
        # whether special tokens are matched in normalized text, where other spellings become equal to them
        tokens = self.tokenizer.added_tokens_decoder.values()
        hidden = any(token.special and token.normalized for token in tokens)
        return hidden and self.tokenizer.backend_tokenizer.normalizer is not None

    def _normalised(self, text: str) -> str:
        return str(self.tokenizer.backend_tokenizer.normalizer.normalize_str(text))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenize([text])[0])

    # tokens

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens of a conversation up to the assistant's answer."""
        return self._ids(self.text(messages, prompt=True))

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text alone, without special tokens."""
        return self._ids(self._escape_special_tokens(text))

    def turns(self, pair: Pair) -> list[Turn]:
        """Return every assistant turn of a pair, with all previous turns as its prompt."""
        turns = []
        for index, message in enumerate(pair.messages):
            if message.role == "assistant":
                prompt, answer = self._turn_text(pair.messages[: index + 1])
                turns.append(Turn(*self.split_ids(prompt, answer), message.content, prompt, answer))
        return turns

    def _turn_text(self, messages: Sequence[Message]) -> tuple[str, str]:
        prompt = self.text(messages[:-1], prompt=True)
        whole = self.text(messages, prompt=False)
        return prompt, self._answer_text(prompt, whole, messages[-1].content)

    def split_ids(self, prompt: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens of a prompt, tokenized alone as in generation, and of the answer after it."""
        prompt_ids, joint = self._ids(prompt), self._ids(prompt + answer)
        if joint[: len(prompt_ids)] == prompt_ids:
            return prompt_ids, joint[len(prompt_ids) :]
        return prompt_ids, self._ids(answer)

    def _answer_text(self, prompt: str, whole: str, content: str) -> str:
        # answer with its end-of-turn token, without the template's text after it
        rest = whole[len(prompt) :] if whole.startswith(prompt) else ""
        answer = self._escape_special_tokens(content).strip()
        end = self._specials.search(rest, len(answer)) if rest.startswith(answer) else None
        return rest[: end.end()] if end else answer + str(self.tokenizer.eos_token or "")

    def examples(self, pair: Pair, max_length: int | None = None) -> list[Example]:
        """Return the training sequences of a pair; those of more than ``max_length`` tokens are left out.

        A conversation is one sequence with all assistant turns supervised if the template renders earlier turns like
        their prompts; otherwise it is one sequence per turn.
        """
        chained: list[tuple[list[int], list[bool]]] = []
        for turn in self.turns(pair):
            whole = [*turn.prompt_ids, *turn.answer_ids]
            marks = [False] * len(turn.prompt_ids) + [True] * len(turn.answer_ids)
            if chained and whole[: len(chained[-1][0])] == chained[-1][0]:
                earlier = chained.pop()[1]
                marks[: len(earlier)] = earlier
            chained.append((whole, marks))
        return [
            Example(tuple(ids), tuple(marks))
            for ids, marks in chained
            if max_length is None or len(ids) <= max_length
        ]

    def count_tokens(self, pair: Pair) -> int:
        """Return the tokens of the pair's longest sequence."""
        return sum(self.lengths([pair])[0])

    def lengths(self, pairs: Sequence[Pair]) -> list[tuple[int, int]]:
        """Return the tokens of each pair's last prompt and answer, computed in one fast batch."""
        texts = [self._turn_text(pair.messages) for pair in pairs]
        prompts = self._tokenize([prompt for prompt, _ in texts])
        joints = self._tokenize([prompt + answer for prompt, answer in texts])
        counts = []
        for (_, answer), alone, joint in zip(texts, prompts, joints, strict=True):
            starts = joint[: len(alone)] == alone
            counts.append((len(alone), len(joint[len(alone) :] if starts else self._ids(answer))))
        return counts

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        try:
            rows = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        except MemoryError:
            raise
        except Exception as error:  # such as values of a wrong type in tokenizer_config.json
            raise ModelError(
                m(
                    "the base model's tokenizer fails ({name}: {error})",
                    name=type(error).__name__,
                    error=str(error)[:_MAX_REASON_CHARACTERS],
                ),
                remedy=m(
                    "Copy the tokenizer's files again from the source of the model, or choose another base model"
                ),
            ) from error
        for text, ids in zip(texts, rows, strict=True):
            if len(ids) > MAX_TOKENS_PER_CHARACTER * len(text):
                raise ModelError(
                    m(
                        "the base model's tokenizer turns {text:,} characters into {ids:,} tokens",
                        text=len(text),
                        ids=len(ids),
                    ),
                    remedy=m("Choose another base model, or correct its tokenizer.json"),
                )
        return rows

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens without special tokens."""
        return self._decoded(ids, skip_special_tokens=True).strip()

    def _decoded(self, ids: Sequence[int], **options: bool) -> str:
        text = str(self.tokenizer.decode(list(ids), **options))
        if len(text) > MAX_CHARACTERS_PER_TOKEN * len(ids):
            raise ModelError(
                m(
                    "the base model's tokenizer turns {ids:,} tokens into {text:,} characters",
                    ids=len(ids),
                    text=len(text),
                ),
                remedy=m("Choose another base model, or correct its tokenizer.json"),
            )
        return text


def _with_fixed_date(template: Any, day: date) -> Any:
    if isinstance(template, dict):
        return {name: _with_fixed_date(one, day) for name, one in template.items()}
    return with_date(template, day) if isinstance(template, str) else template
