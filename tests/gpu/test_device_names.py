"""The device as doctor and planner describe it."""

import json
import re

import pytest

from tests.gpu.conftest import DEVICE, cards, cli

pytestmark = pytest.mark.gpu


def test_doctor_names_the_card(bundled_models):
    checks = {check["name"]: check for check in json.loads(cli("doctor", "--json"))["checks"]}
    assert checks["quantization nf4"]["ok"], checks["quantization nf4"]
    if DEVICE == "cuda":
        import torch

        assert torch.cuda.get_device_name(0) in checks["gpu"]["value"]
        assert "processor" not in checks["quantization nf4"]["value"]
    else:
        assert checks["gpu"]["value"].startswith("none")


def test_the_plan_is_made_for_the_card(bundled_models):
    machine = json.loads(cli("plan", "smollm2-135m-instruct", "--json"))["machine"]
    assert machine["device"] == DEVICE
    assert 0 < machine["free_bytes"] <= machine["memory_bytes"]
    if DEVICE == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(0)
        assert _plain(machine["name"]) in _plain(properties.name) or _plain(
            properties.name
        ) in _plain(machine["name"])
        assert machine["memory_bytes"] == pytest.approx(properties.total_memory, rel=0.05)
        wanted = (
            "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        )
        assert machine["compute_dtype"] == wanted


@pytest.mark.usefixtures("cuda", "two_devices")
def test_the_plan_follows_the_visible_card(bundled_models, monkeypatch):
    """The plan uses the card of the training, or all visible cards if they are equal."""
    import torch

    last = cards() - 1
    properties = torch.cuda.get_device_properties(last)
    # for the child process; this one has its cards already
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", str(last))
    machine = json.loads(cli("plan", "smollm2-135m-instruct", "--json"))["machine"]
    assert machine["memory_bytes"] == pytest.approx(properties.total_memory, rel=0.05)


def _plain(name: str) -> str:
    """A card's name without maker and spaces: drivers write ``NVIDIA A100-SXM4-80GB``, torch the same or less."""
    return re.sub(r"nvidia|[^a-z0-9]", "", name.casefold())
