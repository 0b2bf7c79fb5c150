"""A server follows the published version: no answer is lost or mixed, and the old version ends."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.chat.client import ChatWorker
from assistant_builder.chat.visitor_log import log_file, read_questions
from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import ModelError
from assistant_builder.serving import widget
from assistant_builder.serving.engine import Engine
from assistant_builder.serving.registry import ModelRegistry, ServedModel
from assistant_builder.serving.switch import EngineSwitch
from assistant_builder.study import Study
from assistant_builder.study.versions import add_version, publish, served_version, undo
from tests.chat.fake_worker import parrot_command
from tests.cluster.conftest import wait_until
from tests.serving.conftest import Served, limits
from tests.synthetic_study import done, new_study


class Versions:
    """A study with a second and a third version, whose parrots begin each word with the version's name."""

    def __init__(self, folder: Path) -> None:
        self.root, self.folder, self.workers = (
            new_study("shop"),
            folder,
            dict[str, list[ChatWorker]](),
        )
        for name in ("shop-v2", "shop-v3"):
            add_version(self.root, new_study(name))
        self.switch = EngineSwitch(self.select(), self.build)

    def select(self) -> ModelRegistry:
        study = served_version(self.root)
        assistant = ServedModel(
            "library-lora", study.folder, "lora", 1_700_000_000, first=self.root.folder
        )
        return ModelRegistry((assistant,), {"library": "library-lora"}, self.select)

    def build(self, models: ModelRegistry) -> Engine:
        name = models.assistants[0].folder.name
        if name == "shop-v3":
            raise ModelError("the weights are damaged", where=name)
        scripts = self.folder / f"{name} {len(self.workers.get(name, ()))}"
        scripts.mkdir()
        command = parrot_command(scripts)
        script = Path(command[1])
        script.write_text(script.read_text().replace('arm + ":"', f'"{name}:"'))
        worker = ChatWorker(command)
        self.workers.setdefault(name, []).append(worker)
        return Engine(models, {"library-lora": limits()}, 32, worker)


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path)


def text(served: Served, question: str = "hello you") -> str:
    found = served.ask(question)
    assert found.status_code == 200, found.text
    return str(found.json()["choices"][0]["message"]["content"])


@pytest.mark.long
def test_requests_go_to_the_published_version_and_answers_that_run_are_finished(versions, serve):
    served = serve(switch=versions.switch)
    assert text(served).startswith("shop:hello shop:you")
    (old,) = versions.workers["shop"]
    question = " ".join(["slow"] * 40)  # a second
    with ThreadPoolExecutor(20) as pool:
        running = pool.submit(text, served, " ".join(["slow"] * 45))
        publish(versions.root, "shop-v2", "no worse")
        asked = [pool.submit(text, served, question) for _ in range(12)]
        wait_until(lambda: text(served).startswith("shop-v2:"), 30)
        answers = [each.result() for each in asked]
    assert running.result().count("shop:slow") == 45
    for answer in answers:
        assert answer.count("shop:slow") == 40 or answer.count("shop-v2:slow") == 40, (
            "an answer has one version"
        )
    wait_until(lambda: not old.running, 30)
    assert undo(versions.root) == "shop"
    wait_until(lambda: text(served).startswith("shop:"), 30)
    wait_until(lambda: not versions.workers["shop-v2"][0].running, 30)


def test_undo_does_not_wait_for_a_long_answer(versions, serve):
    served = serve(switch=versions.switch)
    with served.stream("long talk") as answer:  # a minute
        words = answer.iter_lines()
        assert "data:" in next(words)
        publish(versions.root, "shop-v2")
        wait_until(lambda: versions.switch.models.assistants[0].folder.name == "shop-v2", 30)
        assert text(served).startswith("shop-v2:")
        undo(versions.root)
        wait_until(lambda: versions.switch.models.assistants[0].folder.name == "shop", 30)
        assert text(served).startswith("shop:"), "it does not wait behind the long answer"
        assert versions.workers["shop"][0].running, "the long answer goes on"
    wait_until(lambda: not versions.workers["shop"][0].running, 30)


def test_a_version_that_cannot_be_loaded_leaves_the_old_one(versions, serve, capsys):
    served = serve(switch=versions.switch)
    assert text(served).startswith("shop:")
    publish(versions.root, "shop-v3")
    said: list[str] = []
    wait_until(lambda: said.append(capsys.readouterr().err) or "damaged" in "".join(said), 20)
    assert text(served).startswith("shop:") and served.url
    publish(versions.root, "shop-v2")
    wait_until(lambda: text(served).startswith("shop-v2:"), 30)


def test_a_new_rule_of_the_served_study_is_loaded(versions, serve):
    select = versions.select

    def grounded() -> ModelRegistry:
        (assistant,), aliases = select().assistants, select().aliases
        assistant = replace(
            assistant, grounded=True, lookup=replace(assistant, grounded=True).latest_lookup
        )
        return ModelRegistry((assistant,), aliases, grounded)

    served = serve(switch=EngineSwitch(grounded(), versions.build))
    assert text(served).startswith("shop:")
    *_, old = versions.workers["shop"]
    write_json(versions.root.arm_folder("lora") / "decline.json", {"rule": None})
    done(versions.root, "evaluate", 1.0)
    wait_until(lambda: not old.running, 30)
    assert text(served).startswith("shop:") and versions.workers["shop"][-1] is not old


def test_the_widget_keeps_its_token_and_its_visitors_over_versions(versions, serve):
    site = "https://shop.example"
    served = serve(
        switch=versions.switch,
        config=ServingConfig(widget=True, allow_origin=(site,), remember="texts"),
    )
    token = widget.site_token(versions.root)

    def ask() -> str:
        import httpx

        return httpx.post(
            f"{served.url}/widget/ask",
            headers={"origin": site},
            timeout=60,
            json={"site": token, "messages": [{"role": "user", "content": "hello"}]},
        ).text

    assert "shop:hello" in ask()
    publish(versions.root, "shop-v2")
    # seldom, as a visitor may ask only so often
    wait_until(lambda: "shop-v2:hello" in ask() or time.sleep(1), 30)
    wait_until(
        lambda: (
            {each.model for each in read_questions(versions.root)} == {"shop-lora", "shop-v2-lora"}
        ),
        10,
    )
    assert not log_file(Study.open("shop-v2")).exists()
