"""Packed batches, with random two-layer models of several families."""

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
SEQUENCES = [[5, 6, 7], list(range(10, 50)), [9], [5, 6, 7, 8, 30, 31]]


def small(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    more: dict[str, Any] = {"mistral": {"sliding_window": 8}}.get(family, {})
    config = AutoConfig.for_model(
        family,
        vocab_size=80,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "phi3"])
def test_packed_logits_equal_those_of_single_sequences(family):
    from assistant_builder.inference.packed_batch import (
        PackedModel,
        SequenceChunk,
        SlottedKVCache,
        supports_packing,
    )

    model = small(family)
    assert supports_packing(model)
    rows, slots = PackedModel(model, 0), SlottedKVCache(len(SEQUENCES), 64)
    # all but the last tokens in a first pass, in two chunks if there are enough of them
    first = [
        SequenceChunk(slot, 0, ids[: len(ids) // 2])
        for slot, ids in enumerate(SEQUENCES)
        if len(ids) > 1
    ]
    rows.logits(slots, rows.prepare_prefill(slots, first, rows=64), [0], block=4)
    rest = [
        SequenceChunk(slot, len(ids) // 2, ids[len(ids) // 2 :])
        for slot, ids in enumerate(SEQUENCES)
    ]
    keep = [sum(len(piece.ids) for piece in rest[: place + 1]) - 1 for place in range(len(rest))]
    found = rows.logits(slots, rows.prepare_prefill(slots, rest, rows=64), keep, block=4)
    step = rows.prepare_decode(slots, [SequenceChunk(1, 40, [3]), SequenceChunk(3, 6, [4])], rows=8)
    more = rows.logits(slots, step, [0, 1])
    with torch.no_grad():
        for ids, logits in zip(SEQUENCES, found, strict=True):
            assert torch.allclose(logits, model(torch.tensor([ids])).logits[0, -1], atol=1e-4)
        for slot, token, logits in ((1, 3, more[0]), (3, 4, more[1])):
            whole = torch.tensor([[*SEQUENCES[slot], token]])
            assert torch.allclose(logits, model(whole).logits[0, -1], atol=1e-4)


def test_a_shared_prefix_is_read_once_for_all_slots():
    from assistant_builder.inference.packed_batch import PackedModel, SequenceChunk, SlottedKVCache

    model, start = small("llama"), [7, 8, 9, 10]
    rows, one, many = PackedModel(model, 0), SlottedKVCache(1, 32), SlottedKVCache(3, 32)
    rows.logits(one, rows.prepare_prefill(one, [SequenceChunk(0, 0, start)]), [0])
    many.fill_prefix(one.prefix_states(len(start)))
    step = rows.prepare_prefill(many, [SequenceChunk(2, 4, [20, 21]), SequenceChunk(0, 4, [30])])
    found = rows.logits(many, step, [1, 2])
    with torch.no_grad():
        for ids, logits in zip(([*start, 20, 21], [*start, 30]), found, strict=True):
            assert torch.allclose(logits, model(torch.tensor([ids])).logits[0, -1], atol=1e-4)


def test_models_with_custom_attention_do_not_support_packing():
    from transformers import BloomConfig, BloomForCausalLM

    from assistant_builder.inference.packed_batch import supports_packing

    assert not supports_packing(
        BloomForCausalLM(BloomConfig(vocab_size=80, hidden_size=32, n_layer=1, n_head=4))
    )


def test_prepacked_layers_give_bit_identical_results():
    from assistant_builder.inference.prepacked_linear import PrepackedLinear

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 arithmetic")
    layer = torch.nn.Linear(64, 48, dtype=torch.bfloat16)
    packed = PrepackedLinear(layer)
    for rows in (1, 5, 64):
        x = torch.randn(2, rows, 64, dtype=torch.bfloat16)
        with torch.no_grad():
            assert torch.allclose(packed(x).float(), layer(x).float(), atol=2e-2)


@pytest.mark.parametrize("fixed", [True, False])
def test_padded_and_packed_batches_are_equally_certain_of_their_answers(fixed):
    from assistant_builder.inference.batch_scorer import ROUND, BatchScorer, PaddedBatchScorer

    model, longest = small("llama"), ROUND + 8  # the padded scorer continues after a round

    def answered(scorer: Any) -> tuple[dict[int, list[int]], dict[int, list[float]]]:
        answers: dict[int, list[int]] = {}
        scorer.run(
            [(ids, ()) for ids in SEQUENCES],
            max_new_tokens=longest,
            on_scores=lambda found: None,
            on_answers=answers.update,
        )
        return answers, scorer.certainties

    # ends an answer that is longer without it
    stop = answered(BatchScorer(model, 0, [79], 4))[0][0][3]
    (packed, sure), (padded, certain) = (
        answered(scorer)
        for scorer in (
            BatchScorer(model, 0, [stop], 4),
            PaddedBatchScorer(model, 0, [stop], 4, fixed=fixed),
        )
    )
    lengths = {len(answer) for answer in packed.values()}
    assert padded == packed and min(lengths) < ROUND < max(lengths) == longest
    for place, answer in packed.items():
        assert len(certain[place]) == len(answer)
        assert certain[place] == pytest.approx(sure[place], abs=1e-4)


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_what_a_reference_answer_predicts_is_not_generated_again(kind, monkeypatch):
    from assistant_builder.inference.batch_scorer import BatchScorer, PaddedBatchScorer

    model, longest, generated = small("llama"), 12, []
    decode, generate = BatchScorer._decode, PaddedBatchScorer._generate

    def decoded(scorer: Any, slots: Any, active: Any) -> None:
        generated.append(len(active))
        decode(scorer, slots, active)

    def continued(scorer: Any, prompts: Any, length: int) -> Any:
        found = generate(scorer, prompts, length)
        generated.append(sum(len(tokens) for tokens, _ in found))
        return found

    monkeypatch.setattr(BatchScorer, "_decode", decoded)
    monkeypatch.setattr(PaddedBatchScorer, "_generate", continued)

    def answered(
        targets: list[Any], stop: list[int]
    ) -> tuple[dict[int, list[int]], dict[int, list[float]], int]:
        answers: dict[int, list[int]] = {}
        generated.clear()
        scorer = (BatchScorer if kind == "packed" else PaddedBatchScorer)(model, 0, stop, 4)
        scorer.run(
            list(zip(SEQUENCES, targets, strict=True)),
            max_new_tokens=longest,
            on_scores=lambda found: None,
            on_answers=answers.update,
        )
        return answers, scorer.certainties, sum(generated)

    none: list[Any] = [()] * len(SEQUENCES)
    stop = [answered(none, [79])[0][0][5]]
    plain, certain, all_tokens = answered(none, stop)
    assert any(len(answer) < longest for answer in plain.values())
    references = {
        "the same": lambda ids: ids,
        "the same and more": lambda ids: [*ids, 3, 4, 5] * 2,
        "all but the end": lambda ids: ids[:-1],
        "the same half": lambda ids: [*ids[: len(ids) // 2], 3, 3],
        "another answer": lambda ids: [ids[0] ^ 1, *ids],
    }
    counts = {}
    for name, changed in references.items():
        answers, sure, counts[name] = answered(
            [changed(plain[place]) for place in range(len(SEQUENCES))], stop
        )
        assert answers == plain, name
        for place, each in certain.items():
            assert sure[place] == pytest.approx(each, abs=1e-4), name
    assert counts["the same"] == counts["the same and more"] == 0
    assert 0 < counts["all but the end"]
    assert 0 < counts["the same half"]
    assert counts["another answer"] <= all_tokens
    if kind == "packed":  # each answer stops where it ends
        assert counts["all but the end"] < counts["the same half"] < counts["another answer"]


def beginnings(count: int, longest: int) -> list[list[int]]:
    """Prompts that share beginnings: none, two of 12 and 24 tokens, and equal ones, some beyond a pass."""
    rng = random.Random(3)
    stems = [[rng.randrange(3, 80) for _ in range(12)] for _ in range(3)]
    parts = [[], stems[0], [*stems[0], *stems[1]], [*stems[0], *stems[2]], stems[1]]
    prompts = [
        [*parts[number % 5], *(rng.randrange(3, 80) for _ in range(1 + number * 7 % longest))]
        for number in range(count)
    ]
    return [*prompts, prompts[2], prompts[3][:-1]]


@pytest.mark.parametrize("system", [[], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]], ids=["none", "all"])
@pytest.mark.parametrize("case", ["one", "some", "long", "little memory"])
def test_scores_and_answers_are_the_same_where_beginnings_are_read_once(case, system, monkeypatch):
    """For any size of a batch, beside what each sequence alone has; a pass has 32 rows in two cases."""
    from assistant_builder.inference import batch_scorer

    if case in ("long", "little memory"):
        monkeypatch.setattr(batch_scorer, "ROWS", 32)
    if case == "little memory":
        monkeypatch.setattr(batch_scorer, "MAX_CACHE_BYTES", 300 * 512)
    model, rng = small("llama"), random.Random(4)
    prompts = beginnings(23, 60 if case == "long" else 9)
    sequences = [
        ([*system, *prompt], tuple(rng.randrange(3, 80) for _ in range(number % 4)))
        for number, prompt in enumerate(prompts)
    ][: 1 if case == "one" else None]

    def run(size: int, chosen: Any, **options: Any) -> tuple[Any, Any, Any, int]:
        scorer, tokens = batch_scorer.BatchScorer(model, 0, [79], size, **options), []
        prepare = scorer._packed.prepare_prefill

        def prepared(slots: Any, chunks: Any, **more: Any) -> Any:
            tokens.append(sum(len(chunk.ids) for chunk in chunks))
            return prepare(slots, chunks, **more)

        monkeypatch.setattr(scorer._packed, "prepare_prefill", prepared)
        scores: dict[int, Any] = {}
        answers: dict[int, list[int]] = {}
        scorer.run(chosen, max_new_tokens=6, on_scores=scores.update, on_answers=answers.update)
        assert answers.keys() == scorer.certainties.keys() == set(range(len(chosen)))
        assert scores.keys() == {place for place, (_, target) in enumerate(chosen) if target}
        return scores, answers, scorer.certainties, sum(tokens)

    plain = run(4, sequences, least_shared=10**6)
    for size in (1, 4, 64):
        scores, answers, certainties, tokens = run(size, sequences)
        assert answers == plain[1]
        assert tokens == plain[3] if case == "one" else tokens < plain[3]
        for place, (found, likeliest) in scores.items():
            assert likeliest == plain[0][place][1]
            assert torch.allclose(found, plain[0][place][0], atol=1e-5)
        for place, sure in certainties.items():
            assert sure == pytest.approx(plain[2][place], abs=1e-5)
    for place, sequence in enumerate(sequences[:6]):
        assert run(1, [sequence])[1][0] == plain[1][place]


def test_each_pass_reads_every_sequence_once_and_in_order():
    from assistant_builder.inference.batch_scorer import BatchScorer

    model = small("llama")
    sequences = [(prompt, [4, 5, 6]) for prompt in beginnings(20, 9)]
    read: dict[int, list[Any]] = {}
    for each in BatchScorer(model, 0, [79], 64).passes(sequences):
        for index, logits in zip(each.sequences, each.logits.split(each.counts), strict=True):
            read.setdefault(index, []).append(logits)
    with torch.no_grad():
        for place, (prompt, target) in enumerate(sequences):
            expected = model(torch.tensor([[*prompt, *target[:-1]]])).logits[0, len(prompt) - 1 :]
            assert torch.allclose(torch.cat(read[place]), expected, atol=1e-4)
