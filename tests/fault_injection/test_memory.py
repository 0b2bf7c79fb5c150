"""Memory that runs out in loading, training and chat is reported with a remedy, and the next attempt works."""

import json

import pytest

from tests.fault_injection.conftest import python
from tests.fault_injection.study import small_study

BEGIN = """
import json, os
import torch  # memory of the libraries does not count
from assistant_builder.runner.data_steps import prepare_data
from assistant_builder.inference.session import ChatSession
from assistant_builder.chat.answer_server import Server
from assistant_builder.models import loading
from assistant_builder.study import Study
from assistant_builder.training import train
from assistant_builder.training.trainer import TwinTrainer
from assistant_builder.runner.step_process import run_as_step

study = Study.open("short")

def leave(megabytes):
    pages = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = pages + megabytes * 2**20 if megabytes is not None else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

def told(step):
    leave(None)
    record = study.step(step)
    return {"state": record.state, **(record.error or {})}

def short_of_memory_later():
    run = TwinTrainer.run
    def limited(self):
        leave(24)
        try:
            run(self)
        finally:
            leave(None)
    TwinTrainer.run = limited

found = {}
"""
SHORT = """
assert run_as_step(study, "data", lambda: prepare_data(study)) == 0
leave(150)
run_as_step(study, "train-lora", lambda: train.train_arm(study, "lora"))
found["loading"] = told("train-lora")
short_of_memory_later()
run_as_step(study, "train-lora", lambda: train.train_arm(study, "lora"))
found["training"] = told("train-lora")
print(json.dumps(found))
"""
AGAIN = """
assert run_as_step(study, "train-lora", lambda: train.train_arm(study, "lora")) == 0
found["after"] = told("train-lora")

events = []
server = Server(ChatSession(study), events.append)
def ask(identity):
    request = {"op": "ask", "id": identity, "arm": "lora", "messages": [{"role": "user", "content": "When?"}],
               "sampling": {"max_new_tokens": 2}}
    server._handle(json.dumps(request))
    server._arms["lora"].submit(lambda: None).result()
leave(150)
ask("1")
leave(None)
ask("2")
found["chat"] = [event for event in events if event["event"] in ("error", "end")]
print(json.dumps(found))
"""


@pytest.mark.train
@pytest.mark.long
def test_memory_runs_out_in_loading_training_and_chat(bundled_models):
    small_study("short", train__max_steps=1, train__evaluations=1, train__sample_answers=0)
    found = {}
    for part in (SHORT, AGAIN):  # as steps are: each try in a process of its own
        result = python(BEGIN + part)
        assert result.returncode == 0, result.stderr[-3000:]
        found |= json.loads(result.stdout.splitlines()[-1])
    for place in ("loading", "training"):
        assert found[place]["state"] == "failed" and "memory" in found[place]["what"], found[place]
        assert found[place]["remedy"]
    assert "micro_batch_size" in found["training"]["remedy"]
    assert found["after"]["state"] == "succeeded"
    failed, answered = found["chat"]
    assert failed["event"] == "error" and "memory" in failed["error"]["what"], failed
    assert "Close other programs" in failed["error"]["remedy"]
    assert answered["event"] == "end" and answered["id"] == "2"
