"""How sequences are put into batches."""

from __future__ import annotations

from evals.blocks import LENGTH, batches, padded


def test_a_sequence_is_padded_to_a_length_of_its_own() -> None:
    assert [padded(length) for length in (1, LENGTH, LENGTH + 1)] == [LENGTH, LENGTH, 2 * LENGTH]


def test_only_sequences_padded_alike_share_a_batch() -> None:
    lengths = [40, 5, 33, 31, 64, 32, 65]
    found = batches(lengths, 3)
    assert found == [[1, 3, 5], [2, 0, 4], [6]]
    assert batches(lengths, 2) == [[1, 3], [5], [2, 0], [4], [6]]
    assert batches(lengths, 3, alike=False) == [[1, 3, 5], [2, 0, 4], [6]]
    assert batches([40, 5, 33], 3, alike=False) == [[1, 2, 0]]


def test_a_batch_holds_no_more_tokens_than_allowed_unless_one_sequence_does() -> None:
    assert batches([30] * 5 + [300], 8, most_tokens=64) == [[0, 1], [2, 3], [4], [5]]
