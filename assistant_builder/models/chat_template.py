"""One date for every prompt of a study, where its chat template writes today's.

Templates such as those of Llama 3.2, Granite and SmolLM3 call ``strftime_now``, a global function that transformers
(``utils/chat_template_utils.py``) answers with the current day. Prompts of training, scoring and chat would then differ
from day to day. The function cannot be passed to ``apply_chat_template``: transformers 5 replaces callables among its
arguments by a placeholder. So the template is given a macro of the same name, which every renderer of Jinja prefers to
the global function.

A template that takes the date from the variable ``date_string`` needs nothing: the variable is never set here, so that
it writes its own fixed default (Llama 3.1), or calls ``strftime_now`` for it (Llama 3.2).

Turn a question-answer pair into tokens with the base model's own tokenizer and chat template; no torch.

The tokens a model is trained on begin with exactly the tokens it will be prompted with, and the supervised part of a
turn is the answer and its end-of-turn token.
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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FUNCTION = "strftime_now"
_DIRECTIVES = (*"aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ", *("-" + letter for letter in "deHIjmMSUVWy"))
"""What follows the percent sign in ``strftime`` of glibc, without padding in the second part."""
_PERCENT = "\ue000"
"""Takes the place of an escaped percent sign while the directives are replaced."""
_HEAD = "{% macro strftime_now(format) %}"


def asks_for_date(template: object) -> bool:
    """Whether a chat template, or one of several by name, asks for today's date."""
    if isinstance(template, dict):
        return any(asks_for_date(one) for one in template.values())
    return isinstance(template, str) and _FUNCTION in template


def with_date(template: str, day: date) -> str:
    """A chat template that writes ``day`` where it asks for today's date; any other template as it is.

    Args:
        template: Jinja, rendered with ``trim_blocks`` as transformers does: the line break after the macro is not text.
        day: The day; its time is midnight.
    """
    if not asks_for_date(template) or template.startswith(_HEAD):
        return template
    moment = datetime.combine(day, time())
    written = [(f"%{directive}", moment.strftime(f"%{directive}")) for directive in _DIRECTIVES]
    steps = [("%%", _PERCENT), *written, (_PERCENT, "%")]
    chain = "".join(f"|replace({_quoted(old)}, {_quoted(new)})" for old, new in steps)
    return f"{_HEAD}{{{{ format{chain} }}}}{{% endmacro %}}\n{template}"


def _quoted(text: str) -> str:
    """As a string literal of Jinja."""
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t"}
    return "'" + "".join(escapes.get(character, character) for character in text) + "'"


PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}### Answer:\n"
    "{{ message['content'] }}{{ eos_token }}\n\n"
    "{% elif message['role'] == 'user' %}### Question:\n{{ message['content'] }}\n\n"
    "{% else %}{{ message['content'] }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Answer:\n{% endif %}"
)
"""For base models that bring no chat template."""

MAX_TEMPLATE_CHARACTERS = 1_000_000
MAX_TEXT_REPETITIONS = 16
"""Characters that a template may add to a conversation, and how many times it may write each of the conversation's."""
MAX_TOKENS_PER_CHARACTER = 100
"""A character takes four tokens at most where tokens are bytes, and Unicode decomposes one into 18 at most."""
MAX_CHARACTERS_PER_TOKEN = 4_096
"""The longest tokens of published vocabularies are runs of some hundred spaces."""
_MAX_REASON_CHARACTERS = 500

_IMPORTING = threading.Lock()
"""Transformers puts another module in its place as it is imported: who imports it at the same moment gets the first
one, which holds nothing."""
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
"""Tokens that end a turn in templates whose tokenizer calls another one the end of the sequence."""


@dataclass(frozen=True)
class Turn:
    """One assistant turn, ready to be scored or generated.

    Attributes:
        prompt_ids: Everything before the answer, with the header of the assistant's turn.
        answer_ids: The answer and its end-of-turn token.
        reference: The answer as text.
        prompt_text: What ``prompt_ids`` were made from.
        answer_text: What ``answer_ids`` were made from.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    reference: str
    prompt_text: str
    answer_text: str


@dataclass(frozen=True)
class Example:
    """One training sequence.

    Attributes:
        input_ids: Token ids.
        supervised: For each token, whether the loss counts it.
    """

    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]


class ChatTokenizer:
    """Tokenizer and chat template of one base model.

    Args:
        tokenizer: A fast tokenizer of transformers.
        day: What its chat template writes as today's date, where it asks for it; None: the current day.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, day: date | None = None) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            tokenizer.chat_template = PLAIN_TEMPLATE
        if day is not None:
            tokenizer.chat_template = _with_fixed_date(tokenizer.chat_template, day)
        special = sorted({str(token) for token in tokenizer.all_special_tokens} | _added_special_tokens(tokenizer), key=len)
        self._specials = re.compile("|".join(re.escape(token) for token in reversed(special)) or r"(?!)")
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        ends = [self.eos_id, *(tokenizer.convert_tokens_to_ids(token) for token in _END_OF_TURN)]
        self.stop_ids: list[int] = sorted({end for end in ends if end is not None and end != tokenizer.unk_token_id})

    @classmethod
    def load(cls, folder: Path, day: date | None = None) -> ChatTokenizer:
        """Read the tokenizer of a base model's folder; nothing is fetched.

        Args:
            folder: The folder.
            day: See :class:`Prompter`; a study's is :attr:`~assistant_builder.study.Study.template_date`.

        Raises:
            ModelError: The folder has no fast tokenizer.
        """
        with _IMPORTING:
            from transformers import PreTrainedTokenizerFast  # the tokenizers' half of transformers imports no torch

        if not (folder / "tokenizer.json").is_file():
            raise ModelError(
                "the base model has no tokenizer.json", where=str(folder),
                remedy="Save it with AutoTokenizer.from_pretrained(…).save_pretrained(folder)",
            )
        try:
            return cls(PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True), day)
        except (MemoryError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # RecursionError, TypeError …; PanicException of the Rust part is no Exception
            said = f"{type(error).__name__}: {error}"[:_MAX_REASON_CHARACTERS]
            raise ModelError(
                f"the tokenizer cannot be read ({said})", where=str(folder),
                remedy="Copy tokenizer.json, tokenizer_config.json and chat_template.jinja again from where the model "
                "came from, or choose another base model",
            ) from error

    # text

    def text(self, messages: Sequence[Message], *, prompt: bool) -> str:
        """The conversation as the model sees it.

        Args:
            messages: Turns in order.
            prompt: Whether to end with the header of the assistant's next turn.

        Raises:
            ModelError: The template refuses the conversation, or makes far too much of it.
        """
        turns = [{"role": message.role, "content": self._escape_special_tokens(message.content)} for message in messages]
        given = sum(len(turn["content"]) for turn in turns)
        rendered = self._rendered(turns, prompt)
        if len(rendered) > MAX_TEXT_REPETITIONS * given + MAX_TEMPLATE_CHARACTERS:
            raise ModelError(
                f"the base model's chat template makes {len(rendered):,} characters of a conversation of {given:,}",
                remedy="Choose another base model, or correct its chat template",
            )
        return rendered

    def _rendered(self, turns: list[dict[str, str]], prompt: bool) -> str:
        try:
            return self._render(turns, prompt)
        except MemoryError:
            raise
        except Exception as error:  # a template may raise whatever its author chose
            if turns and turns[0]["role"] == "system" and len(turns) > 1:
                return self._rendered(_system_into_user(turns), prompt)
            raise ModelError(
                f"the base model's chat template refuses the conversation: {str(error)[:_MAX_REASON_CHARACTERS]}",
                remedy="Use turns that alternate between user and assistant",
            ) from error

    def _render(self, turns: list[dict[str, str]], prompt: bool) -> str:
        rendered = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=prompt, enable_thinking=False
        )
        if not isinstance(rendered, str):
            raise TypeError(f"it gives no text but {type(rendered).__name__}")
        return rendered

    def _escape_special_tokens(self, text: str) -> str:
        """Break control tokens spelled out in user text, so that they stay text."""
        if self._hidden_specials and self._specials.search(plain := self._normalised(text)):
            text = plain  # the tokenizer would find them only after normalising, as in fullwidth ＜|im_end|＞
        broken = self._specials.sub(lambda match: match.group()[0] + "\u200b" + match.group()[1:], text)
        if self._hidden_specials and self._specials.search(self._normalised(broken)):
            return self._specials.sub(lambda match: " ".join(match.group()), text)  # it drops the zero-width space
        return broken

    @functools.cached_property
    def _hidden_specials(self) -> bool:
        """Whether control tokens are looked for in normalised text, where other spellings become theirs."""
        tokens = self.tokenizer.added_tokens_decoder.values()
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        return normalizer is not None and any(token.special and token.normalized for token in tokens)

    def _normalised(self, text: str) -> str:
        return str(self.tokenizer.backend_tokenizer.normalizer.normalize_str(text))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenize([text])[0])

    # tokens

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of a conversation up to where the assistant's answer begins."""
        return self._ids(self.text(messages, prompt=True))

    def turns(self, pair: Pair) -> list[Turn]:
        """Every assistant turn of a pair, each with all that came before it as prompt."""
        found = []
        for index, message in enumerate(pair.messages):
            if message.role == "assistant":
                prompt, answer = self._turn_text(pair.messages[: index + 1])
                found.append(Turn(*self.split_ids(prompt, answer), message.content, prompt, answer))
        return found

    def _turn_text(self, messages: Sequence[Message]) -> tuple[str, str]:
        """Prompt and answer, as text, of the assistant turn that ends these messages."""
        prompt = self.text(messages[:-1], prompt=True)
        whole = self.text(messages, prompt=False)
        return prompt, self._answer_text(prompt, whole, messages[-1].content)

    def split_ids(self, prompt: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of a prompt and of the answer that follows it.

        The prompt's tokens are those it has alone, as when it is prompted with.
        """
        prompt_ids, joint = self._ids(prompt), self._ids(prompt + answer)
        if joint[: len(prompt_ids)] == prompt_ids:
            return prompt_ids, joint[len(prompt_ids) :]
        return prompt_ids, self._ids(answer)

    def _answer_text(self, prompt: str, whole: str, content: str) -> str:
        """The answer with its end-of-turn token, and without what the template puts after that."""
        rest = whole[len(prompt) :] if whole.startswith(prompt) else ""
        start = rest.find(self._escape_special_tokens(content).strip())
        if start == 0:
            end = self._specials.search(rest, len(self._escape_special_tokens(content).strip()))
            if end is not None:
                return rest[: end.end()]
        return self._escape_special_tokens(content).strip() + str(self.tokenizer.eos_token or "")

    def examples(self, pair: Pair, max_length: int) -> list[Example]:
        """Training sequences of a pair, cut at ``max_length`` tokens; those left without supervised tokens are dropped.

        A conversation becomes one sequence with every assistant turn supervised where the template renders earlier
        turns as they were prompted, else one sequence a turn.
        """
        chained: list[tuple[list[int], list[bool]]] = []
        for turn in self.turns(pair):
            whole = [*turn.prompt_ids, *turn.answer_ids]
            marks = [False] * len(turn.prompt_ids) + [True] * len(turn.answer_ids)
            if chained and whole[: len(chained[-1][0])] == chained[-1][0]:
                earlier = chained.pop()[1]
                marks[: len(earlier)] = earlier
            chained.append((whole, marks))
        cut = [(ids[:max_length], marks[:max_length]) for ids, marks in chained]
        return [Example(tuple(ids), tuple(marks)) for ids, marks in cut if any(marks)]

    def count_tokens(self, pair: Pair) -> int:
        """Tokens of the pair's longest sequence, uncut."""
        return sum(self.lengths([pair])[0])

    def lengths(self, pairs: Sequence[Pair]) -> list[tuple[int, int]]:
        """Tokens of each pair's last prompt and of its last answer, uncut: the lengths of the last of :meth:`turns`.

        All are tokenized in one go, which is several times faster than one by one.
        """
        texts = [self._turn_text(pair.messages) for pair in pairs]
        prompts = self._tokenize([prompt for prompt, _ in texts])
        joints = self._tokenize([prompt + answer for prompt, answer in texts])
        return [
            (len(alone), len(joint) - len(alone) if joint[: len(alone)] == alone else len(self._ids(answer)))
            for (_, answer), alone, joint in zip(texts, prompts, joints, strict=True)
        ]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        try:
            found = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        except MemoryError:
            raise
        except Exception as error:  # settings of a wrong kind in tokenizer_config.json come up here
            raise ModelError(
                f"the base model's tokenizer fails ({type(error).__name__}: {str(error)[:_MAX_REASON_CHARACTERS]})",
                remedy="Copy the tokenizer's files again from where the model came from, or choose another base model",
            ) from error
        for text, ids in zip(texts, found, strict=True):
            if len(ids) > MAX_TOKENS_PER_CHARACTER * len(text):
                raise ModelError(
                    f"the base model's tokenizer makes {len(ids):,} tokens of {len(text):,} characters",
                    remedy="Choose another base model, or correct its tokenizer.json",
                )
        return found

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens of the template that stand for no text."""
        added = {index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset(added | set(self.tokenizer.all_special_ids))

    def decode_with_special_tokens(self, ids: Sequence[int]) -> str:
        """Text of tokens with control tokens spelled out, as :meth:`text` has them."""
        return self._decoded(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens without control tokens."""
        return self._decoded(ids, skip_special_tokens=True).strip()

    def _decoded(self, ids: Sequence[int], **options: bool) -> str:
        text = str(self.tokenizer.decode(list(ids), **options))
        if len(text) > MAX_CHARACTERS_PER_TOKEN * len(ids):
            raise ModelError(
                f"the base model's tokenizer makes {len(text):,} characters of {len(ids):,} tokens",
                remedy="Choose another base model, or correct its tokenizer.json",
            )
        return text


def _with_fixed_date(template: Any, day: date) -> Any:
    if isinstance(template, dict):
        return {name: _with_fixed_date(one, day) for name, one in template.items()}
    return with_date(template, day) if isinstance(template, str) else template


def _added_special_tokens(tokenizer: Any) -> set[str]:
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


def _system_into_user(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """For templates that know no system role: put the instruction at the head of the first question."""
    system, first, *rest = turns
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]
