"""Append-only logs in numbered chunks."""

import random

import pytest

from assistant_builder.store.object_layout import (
    FULL_CHUNK_EVERY,
    LogChunk,
    apply_chunks,
    chunks_of,
    is_local_only,
    is_record,
    next_chunk,
    outputs,
    succeeded,
)

LOG = "arms/lora-2/metrics.jsonl"


def put(objects: dict[str, bytes], content: bytes) -> int:
    """Write the next chunk as Mirror does, without removing old chunks; return its size."""
    parts = chunks_of(objects).get(LOG, [])
    number = parts[-1].number + 1 if parts else 1
    new = next_chunk(LOG, number, read(objects), content)
    if new is not None:
        objects[new[0].name] = new[1]
    return len(new[1]) if new else 0


def read(objects: dict[str, bytes]) -> bytes:
    parts = chunks_of(objects).get(LOG, [])
    return apply_chunks(b"", [(part, objects[part.name]) for part in parts])


def test_chunks_restore_a_log_that_was_truncated():
    dice = random.Random(0)
    objects: dict[str, bytes] = {}
    lines: list[bytes] = []
    for turn in range(3 * FULL_CHUNK_EVERY):
        if dice.random() < 0.2:
            del lines[dice.randrange(len(lines) + 1) :]
        lines += [
            b'{"step": %d, "loss": %d}\n' % (len(lines), dice.randrange(10**6))
            for _ in range(dice.randrange(4))
        ]
        whole = b"".join(lines)
        put(objects, whole + b'{"half' * (turn % 2))
        assert read(objects) == whole
    assert len(chunks_of(objects)[LOG]) <= FULL_CHUNK_EVERY


def test_a_chunk_contains_only_new_lines():
    objects: dict[str, bytes] = {}
    assert put(objects, b"one\ntwo\n") == 8 and put(objects, b"one\ntwo\n") == 0
    assert put(objects, b"one\ntwo\nthree\n") == 6
    # "tw" is no line that stays
    assert put(objects, b"one\ntwice\n") == 6 and read(objects) == b"one\ntwice\n"
    assert list(objects) == [
        f"arms/lora-2/metrics/{name}.jsonl" for name in ("000001-0", "000002-8", "000003-4")
    ]
    assert put(objects, b"") == 0 and read(objects) == b""


def test_files_that_can_be_made_again_are_not_synced():
    assert is_local_only("formats/demo-lora-Q8_0.gguf")
    assert is_local_only("formats+memory/demo-lora-Q8_0.json")
    assert is_local_only("exports/lora-merged/files/model.safetensors")
    assert not is_local_only("evals/status.json")


def test_other_names_are_not_chunks():
    assert (
        chunks_of(
            ["data/source/000001-0.jsonl", "arms/lora/metrics/1-0.jsonl", "arms/lora/metrics.jsonl"]
        )
        == {}
    )
    assert chunks_of(["votes/000002-9.jsonl", "votes/000001-0.jsonl"]) == {
        "votes.jsonl": [LogChunk(1, 0, "votes.jsonl"), LogChunk(2, 9, "votes.jsonl")]
    }


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"state": "succeeded", "outputs": [1, 2]}',
        b'{"state": "succeeded", "outputs": 3}',
        b'{"state": "succeeded", "outputs": {"data/split.json": 3}}',
        b'{"state": ["succeeded"]}',
        b"[]",
    ],
)
def test_a_status_of_another_type_is_incomplete(content):
    assert not is_record(content) and not succeeded(content) and outputs(content) == {}
