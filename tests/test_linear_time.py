"""What reads texts of others takes time in proportion to their length: twice the text, about twice the time."""

import time
from collections.abc import Callable

import pytest

from assistant_builder.chat.visitor_log import mask
from assistant_builder.config import slug
from assistant_builder.data import csv_reader, encoding, json_reader, load_pairs
from assistant_builder.data.columns import normalize_name
from assistant_builder.data.language import language_of
from assistant_builder.data.similarity import casefold_normalize, identifier_tokens
from assistant_builder.data.words import bare_words
from assistant_builder.documents.statements import sentences, statements_of
from assistant_builder.documents.templates import draft_from_templates
from assistant_builder.documents.types import Block, Statement
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import negotiate
from assistant_builder.normalization import normalize_form
from assistant_builder.planning.hardware import parse_memory
from assistant_builder.ui.uploads import safe_name
from assistant_builder.web.access import cookie
from assistant_builder.web.language import request_language
from assistant_builder.web.middleware import PasswordLogin
from assistant_builder.web.passwords import PasswordHash
from evals.metrics.fact_recall import find_facts
from evals.metrics.refusal import is_refusal
from evals.metrics.text import normalise

SIZE = 100_000
MARKS = "\u0315\u0300\u0316"
PASSWORD = PasswordHash(1, 1, 1, b"", b"")


def read_csv(text: str) -> None:
    csv_reader.read_csv("question,answer\n" + text, ".csv", lambda name: True)


def ignoring(read: Callable[[str], object]) -> Callable[[str], None]:
    def quiet(text: str) -> None:
        try:
            read(text)
        except (ValueError, AssistantBuilderError):
            pass

    return quiet


def scope_with(cookies: str) -> dict[str, object]:
    return {
        "type": "http",
        "scheme": "http",
        "path": "/",
        "server": ("localhost", 7860),
        "query_string": b"",
        "headers": [(b"cookie", cookies.encode())],
    }


def pages_of(text: str) -> None:
    statements_of("a", (Block("heading", word) for word in text.split()))


def questions_of(text: str) -> None:
    draft_from_templates([Statement("a", None, "", text, 0, 1)], language_of, 2)


CASES: dict[str, tuple[Callable[[str], object], str, str, str]] = {
    "words of a Windows-1252 file": (
        lambda text: encoding.decode(text.encode("windows-1252")),
        "é ",
        "a",
        "",
    ),
    "quotes that are never closed": (read_csv, "", 'a","\n', ""),
    "empty cells of a row": (read_csv, "a", ",", "\n"),
    "JSON documents of several lines": (
        lambda text: json_reader.read_json_text(text, ".json"),
        "",
        "{\n}\n",
        "",
    ),
    "an open JSON document": (ignoring(json_reader.parse_json), "", '{"a":\t', ""),
    "combining marks of a question": (casefold_normalize, "a", MARKS, ""),
    "characters that become marks": (
        lambda text: normalize_form("NFKD", text),
        "a",
        "\u0f73\uff9e\u0300",
        "",
    ),
    "marks beyond 16 bits": (lambda text: normalize_form("NFC", text), "a", "\U0001d165\u0300", ""),
    "combining marks of a column's name": (normalize_name, "a", MARKS, ""),
    "combining marks of a title": (slug, "a", MARKS, ""),
    "combining marks of an answer": (normalise, "a", MARKS, ""),
    "marks of a searched question": (bare_words, "a", MARKS, ""),
    "capitals of a question": (identifier_tokens, "", "IV", "a"),
    "languages of a browser": (negotiate, "", "a-", ""),
    "cookies of a browser": (lambda text: cookie({"cookie": text}, "b"), 'a="', "\\", '"'),
    "cookies of a session": (
        lambda text: PasswordLogin("ann", PASSWORD).session(scope_with(text)),
        'a="',
        "\\",
        '"',
    ),
    "cookies of a page": (lambda text: request_language(scope_with(text)), 'a="', "\\", '"'),
    "a file name": (safe_name, "", "a/.", ""),
    "spaces of a memory size": (ignoring(parse_memory), "1", " ", "!"),
    "addresses of an answer": (find_facts, "", "w", ""),
    "hyphens of an answer": (find_facts, "", "G-", ""),
    "dots of an answer": (normalise, "", "a.", ""),
    "marks at the end of a sentence": (sentences, "a ", "!", " a"),
    "sentences of a paragraph": (sentences, "", "A b. ", ""),
    "abbreviations of a paragraph": (sentences, "", "e.g. A ", ""),
    "blocks of a document": (pages_of, "", "a ", ""),
    "words of a statement": (questions_of, "", "it carries a ", "b."),
    "quotes of an answer": (is_refusal, "", '" ', ""),
    "numbers of a visitor": (mask, "", "1 ", "x"),
    "addresses of a visitor": (mask, "", "a@b", ""),
}


def seconds(read: Callable[[str], object], text: str) -> float:
    began = time.process_time()
    read(text)
    return time.process_time() - began


@pytest.mark.parametrize("what", CASES)
def test_twice_the_text_takes_twice_the_time(what):
    read, start, repeated, end = CASES[what]

    def text(size: int) -> str:
        return start + repeated * (size // len(repeated)) + end

    read(text(SIZE // 50))  # fills caches of patterns
    size = SIZE if seconds(read, text(SIZE // 10)) < 0.1 else SIZE // 10
    once, twice = (
        min(seconds(read, text(each) + " " * blanks) for blanks in range(4))
        for each in (size, 2 * size)
    )
    assert twice < 0.1 or twice < 3 * once, f"{once:.2f} s, then {twice:.2f} s"


def test_a_number_too_long_for_python_rejects_its_row(tmp_path):
    path = tmp_path / "a.csv"
    turns = (
        "[{'role': 'user', 'content': 0x"
        + "f" * 20_000
        + "}, {'role': 'assistant', 'content': 'a'}]"
    )
    path.write_text(f'messages\n"{turns}"\n')
    found = load_pairs(path)
    assert not found.pairs and "cannot be read" in str(found.rejected[0].reason)
