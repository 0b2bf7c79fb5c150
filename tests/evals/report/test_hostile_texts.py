"""A study with HTML, Markdown, JavaScript and terminal codes in every text: its reports and the page stay text."""

import asyncio
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from markdown_it import MarkdownIt

from assistant_builder.atomic_io import read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.study import Study
from assistant_builder.ui.app import build_app
from assistant_builder.ui.refresh import StudyView
from tests.synthetic_study import evaluated, new_study, reported, trained, with_data

EVIL = "evil.invalid"
PLANTED = (
    f"<img src=//{EVIL}/1 onerror=window.bad=1>",
    "<script>window.bad=2</script>",
    f"![p](http://{EVIL}/3.png)",
    "[l](javascript:window.bad=4)",
    "</script><script>window.bad=5</script>",
    "\"'><b onmouseover=window.bad=6>x</b>",
    f"</style><style>@import '//{EVIL}/7'</style>",
    "<svg onload=window.bad=8></svg>",
    "--><!-- x",
    "</textarea></template></title></details></table>",
    f"<base href=//{EVIL}/>",
    "javascript:window.bad=9",
    f"<a href='http://{EVIL}/10'>l</a>",
    "{{ 7*7 }}{% raw %}${7*7}",
    "\n# heading\n\n| a | b |\n|---|---|\n<div id=bad>\n",
    "`` ` ```",
    f'[r]: http://{EVIL}/11 "t"\n[r]',
    f"<http://{EVIL}/12>",
    "&lt;script&gt; &#60;i&#62;",
    "\\<i>\\",
)
ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\b\r"
ALL = " ".join(PLANTED) + ESCAPES
SETTING = " ".join(" ".join(PLANTED).split())
"""study.yaml takes no control characters."""
PLAIN = "words " * 8
URLS = tuple("src href data poster action formaction xlink:href background content".split())


class Elements(HTMLParser):
    """Which elements, with which attributes, a text makes; and what of them fetches or runs something planted."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.kinds: set[tuple[str, tuple[str, ...]]] = set()
        self.live: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.kinds.add((tag, tuple(sorted(name for name, _ in attrs))))
        for name, value in attrs:
            if name == "srcdoc":  # the report inside the page
                inside = Elements(value or "")
                self.kinds |= {(f"srcdoc {kind}", names) for kind, names in inside.kinds}
                self.live += inside.live
            planted = re.search(r"javascript:|window\.bad|" + re.escape(EVIL), value or "")
            if planted and (name.startswith("on") or name in (*URLS, "style")):
                self.live.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and re.search(
            r"window\.bad|" + re.escape(EVIL), data
        ):
            self.live.append(f"{self._inside}: {data[:100]}")


def planted_everywhere(value: Any, text: str, keep: frozenset[str]) -> Any:
    """A record in which every text that is free to be anything is another."""
    if isinstance(value, dict):
        return {
            key: part if key in keep else planted_everywhere(part, text, keep)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [planted_everywhere(part, text, keep) for part in value]
    return text if isinstance(value, str) else value


def made(folder: Path, name: str, texts: tuple[str, ...], text: str, setting: str) -> Study:
    """A finished study; the same in both cases but for its texts."""
    rows = [
        {
            "question": f"What of shelf {number * 7919} {texts[number % len(texts)]}?",
            "answer": f"Row {number * 104729 % 1000} {texts[number % len(texts)]}",
            "group": f"g{number % 20} {texts[number % len(texts)]}",
            text: "x",
        }
        for number in range(60)
    ]
    rows.append({"question": "", "answer": text})
    data = folder / f"{name}.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    study = new_study(name, data, data__system=setting, eval__bootstrap_resamples=200)
    evaluated(trained(with_data(study)))
    for samples in (study.folder / "evals").rglob("samples.jsonl"):
        write_jsonl(
            samples,
            [
                {**sample, "answer": None if sample["answer"] is None else f"said {text}"}
                for sample in read_jsonl(samples)
            ],
        )
    judge = study.folder / "evals" / "judge.json"
    write_json(judge, {**read_json(judge), "model": text, "url_host": text})
    replies = study.folder / "evals" / "judge.jsonl"
    keep = frozenset({"item", "outcome", "first", "choice"})
    write_jsonl(replies, planted_everywhere(read_jsonl(replies), text, keep))
    study.write_config(
        study.config.with_changes({"model.base": setting, "eval.judge_model": setting})
    )
    for arm in ("lora", "qlora"):
        config = study.arm_folder(arm) / "config.json"
        record = read_json(config)
        write_json(config, {**record, "model": {**record["model"], "base": text}})
    return reported(study)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, Study]]:
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(folder))
        yield (
            made(folder, "hostile", PLANTED, ALL, SETTING),
            made(folder, "plain", (PLAIN,), PLAIN, PLAIN),
        )


def shown(study: Study, file: str) -> str:
    return (study.folder / file).read_text(encoding="utf-8")


def test_the_planted_texts_are_in_the_reports(studies):
    for file in ("report.html", "report.md", "report.json"):
        assert shown(studies[0], file).count("window.bad") > 5, file


def test_no_text_makes_an_element_of_the_html_report(studies):
    hostile, plain = (Elements(shown(study, "report.html")) for study in studies)
    assert hostile.live == [] and hostile.kinds - plain.kinds == set()


@pytest.mark.parametrize("file", ["report.md", "data/card.md"])
def test_no_text_makes_an_element_of_the_markdown(studies, file):
    """Rendered with HTML let through, as a site might."""
    render = MarkdownIt("commonmark").enable("table").render
    hostile, plain = (
        Elements(render(shown(study, file).split("\n---\n", 1)[-1])) for study in studies
    )
    assert hostile.live == [] and hostile.kinds - plain.kinds <= {("br", ())}, (
        "what ends a line in a table"
    )


@pytest.mark.parametrize("file", ["report.md", "report.html", "data/card.md"])
def test_no_text_commands_a_terminal(studies, file):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown(studies[0], file))


def test_no_text_makes_an_element_of_the_page(studies, monkeypatch):
    def drawn(sections: Any, study: Study) -> str:
        look, texts = StudyView(study.name), []
        for section in sections:
            for component, value in zip(section.outputs, section.values(look), strict=True):
                value = (
                    value.get("value")
                    if isinstance(value, dict)
                    else getattr(value, "value", value)
                )
                if isinstance(component, gr.HTML | gr.Markdown) and isinstance(value, str):
                    texts.append(
                        value
                        if isinstance(component, gr.HTML)
                        else MarkdownIt("commonmark").render(value)
                    )
        return "\n".join(texts)

    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(studies[0].folder.parents[1]))

    async def draw() -> list[str]:
        sections = build_app().sections
        return [drawn(sections, study) for study in studies]

    texts = asyncio.run(draw())
    hostile, plain = map(Elements, texts)
    assert texts[0].count("window.bad") > 5 and len(plain.kinds) > 20
    assert hostile.live == [] and hostile.kinds - plain.kinds == set()
