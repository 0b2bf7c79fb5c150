"""The tree of beginnings that prompts share."""

import random

from assistant_builder.inference.prefix_tree import shared_beginnings


def read(prompts, known=0, least=1):
    """The tokens that are read of each prompt, by its beginnings and itself, and how many are read in all."""
    found, longest = shared_beginnings(prompts, known, least)
    whole, count = [], 0
    for each in found:
        before = found[each.parent].ids if each.parent >= 0 else each.ids[:known]
        assert list(each.ids[: each.start]) == list(before) and len(each.ids) - each.start >= least
        count += len(each.ids) - each.start
    for prompt, place in zip(prompts, longest, strict=True):
        start = found[place].ids if place >= 0 else prompt[:known]
        assert len(start) < len(prompt), "the last token is read with the prompt"
        whole.append([*start, *prompt[len(start) :]])
        count += len(prompt) - len(start)
    return whole, count


def test_what_prompts_share_is_read_once():
    prompts = [[1, 2, 3, 4, 9], [1, 2, 3, 5], [1, 2, 7, 7], [1, 2, 3, 4, 8], [6, 6]]
    assert read(prompts) == (prompts, 4 + 7)
    found, longest = shared_beginnings(prompts, 0, 1)
    assert [list(each.ids) for each in found] == [[1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert [each.parent for each in found] == [-1, 0, 1] and longest == [2, 1, 0, 2, -1]


def test_random_prompts_are_read_whole_and_no_token_twice():
    rng = random.Random(0)
    for _ in range(300):
        prompts = [
            [rng.randrange(2) for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(1, 12))
        ]
        whole, count = read(prompts)
        assert whole == prompts
        # distinct beginnings of prompts without their last tokens, and each last token
        tree = {tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt))}
        shared = {
            each
            for each in tree
            if sum(tuple(prompt[: len(each)]) == each != tuple(prompt) for prompt in prompts) > 1
        }
        alone = sum(
            len(prompt)
            - max(
                (
                    len(each)
                    for each in shared
                    if tuple(prompt[: len(each)]) == each and len(each) < len(prompt)
                ),
                default=0,
            )
            for prompt in prompts
        )
        assert count == len(shared) + alone
