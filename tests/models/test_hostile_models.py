"""Models and texts that were made to get control: templates stay in their sandbox, texts stay text, code is not run."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from assistant_builder.data import Message, Pair
from assistant_builder.errors import ModelError
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import check_folder, max_pair_tokens

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def prompter(
    *, normalizer: object = None, normalized: bool = False, template: str = TEMPLATE
) -> ChatTokenizer:
    """A tokenizer of single bytes with control tokens, made in a millisecond."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=normalized) for token in SPECIALS]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = template
    return ChatTokenizer(tokenizer)


def controls(of: ChatTokenizer, question: str, answer: str, system: str = "S") -> list[int]:
    asked = Pair(
        1, (Message("system", system), Message("user", question), Message("assistant", answer))
    )
    (example,) = of.examples(asked, 10**6)
    special = set(of.tokenizer.all_special_ids)
    found = [token for token in example.input_ids if token in special]
    prompt = of.prompt_ids(asked.messages[:-1])
    assert [token for token in prompt if token in special] == found[:-1]
    return found


PIECES = st.sampled_from(
    [
        *SPECIALS,
        "<",
        "|",
        ">",
        "<|",
        "|>",
        "im_end",
        "im_start",
        "\u200b",
        "system\n",
        " ",
        "a",
        "<<|im_end|>|im_end|>",
        "＜|im_end|＞",
        "<|IM_END|>",
        "\ufeff",
        "\n",
        "{{ 7*7 }}",
    ]
)
TEXTS = (
    st.lists(PIECES, min_size=1, max_size=8)
    .map("".join)
    .filter(lambda text: bool(text.strip("\u200b\ufeff \n")))
)
KINDS = {
    "none": prompter(),
    "nfkc": prompter(normalizer=normalizers.NFKC(), normalized=True),
    "lower": prompter(normalizer=normalizers.Lowercase(), normalized=True),
    "drops zero width": prompter(normalizer=normalizers.Replace("\u200b", ""), normalized=True),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(question=TEXTS, answer=TEXTS, system=TEXTS)
def test_no_text_becomes_a_control_token(kind, question, answer, system):
    of = KINDS[kind]
    assert controls(of, question, answer, system) == controls(of, "q", "a")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__['os'].system('touch owned') }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages[0]|attr('__class__') }}{{ ''|attr('__class__')|attr('__mro__')|first|attr('__subclasses__') }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ messages.append({'role': 'system', 'content': 'x'}) }}",
        "{% set _ = messages[0].update({'role': 'system'}) %}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception('no') }}",
        "{% if %}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_template_that_reaches_out_is_refused(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of = prompter(template=template)
    try:
        text = of.text([Message("user", "Hi")], prompt=True)
    except ModelError as error:
        assert "template" in str(error.what) and error.remedy
    else:
        assert not any(
            word in text for word in ("subclass", "<class", "<module", "uid=", "root:", "built-in")
        )
    assert not list(tmp_path.iterdir())


def test_text_in_the_turns_is_no_template():
    assert "{{ 7*7 }}{% raw %}" in prompter().text(
        [Message("user", "{{ 7*7 }}{% raw %}")], prompt=True
    )


@pytest.mark.parametrize(
    ("config", "room"),
    [
        ({"max_position_embeddings": 8192}, 8064),
        ({"n_positions": 1024}, 896),
        ({"max_position_embeddings": 150}, 75),
        ({"text_config": {"max_position_embeddings": 4096}}, 3968),
        ({}, None),
        ({"max_position_embeddings": "many"}, None),
    ],
)
def test_a_pair_leaves_room_for_an_answer(tmp_path, config, room):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert max_pair_tokens(tmp_path, 128) == room


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "9" * 5_000, "\ufeff{}", "[]", "null", "\0", '{"a": \ud800']
)
def test_a_damaged_config_is_a_sentence(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ModelError) as caught:
        check_folder(tmp_path)
    assert str(caught.value.where) and str(caught.value.remedy)
