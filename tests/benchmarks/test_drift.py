"""Slowdown and memory growth of a long training."""

import json

from assistant_builder.atomic_io import append_jsonl
from benchmarks.drift import main
from tests.synthetic_study import new_study


def test_slowdown_and_memory_growth_are_measured(capsys):
    study = new_study()
    path, tokens, busy = study.arm_folder("lora") / "metrics.jsonl", 0, 0.0
    for step in range(1, 101):
        seconds = 1.0 if step <= 50 else 2.0
        tokens, busy = tokens + 300, busy + seconds
        append_jsonl(
            path,
            {
                "event": "step",
                "step": step,
                "tokens": tokens,
                "busy_seconds": busy,
                "elapsed_seconds": busy + 5,
                "memory_bytes": 10**9 + step * 10**6,
            },
        )
    append_jsonl(path, {"event": "validation", "step": 100, "loss": 1.0})
    assert main([str(study.folder), "--settle", "10", "--window", "30"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["early"]["tokens_per_second"] == 300.0
    assert found["late"]["tokens_per_second"] == 150.0
    assert found["speed_ratio"] == 0.5 and found["memory_ratio"] == round(1.1e9 / (1e9 + 35e6), 4)
    assert main([str(study.folder), "--window", "100"]) == 1
    assert "Train for longer" in capsys.readouterr().err
    assert main([str(study.folder), "--run", "qlora"]) == 1
