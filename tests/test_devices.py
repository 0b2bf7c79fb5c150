"""Plans are made for the GPUs that torch uses, whatever nvidia-smi reports.

Each case runs in its own process with a fake nvidia-smi on its PATH, a fake driver library, and a fake torch that
selects GPUs like CUDA.
"""

import _ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the fake driver library is found as on Linux"
)
ROOT = Path(__file__).resolve().parents[1]
TORCH = '''
"""Enough of torch to be asked for its cards: they and the build are in FAKE_TORCH."""
import json, os, time, warnings
from types import SimpleNamespace

given = json.loads(os.environ["FAKE_TORCH"])
time.sleep(given.get("seconds", 0))
version = SimpleNamespace(cuda=given.get("cuda"), hip=given.get("hip"))


class _Cuda:
    def _visible(self):
        cards = given["cards"] if given.get("cuda") or given.get("hip") else []
        if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            cards = sorted(cards, key=lambda card: -card["speed"])
        shown = os.environ.get("HIP_VISIBLE_DEVICES" if given.get("hip") else "CUDA_VISIBLE_DEVICES")
        if shown is None:
            return cards
        found = []
        for wanted in filter(None, shown.split(",")):
            if wanted.startswith(("GPU-", "MIG-")):
                found += [card for card in cards if card["uuid"].startswith(wanted[4:])]
            elif int(wanted) not in range(len(cards)):
                break
            else:
                found.append(cards[int(wanted)])
        return found

    def is_available(self):
        if given.get("old_driver"):
            warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", UserWarning)
            return False
        return self.device_count() > 0

    def device_count(self):
        return len(self._visible())

    def get_device_properties(self, index):
        card = self._visible()[index]
        return SimpleNamespace(name=card["name"], uuid=card["uuid"], total_memory=card["mebibytes"] * 2**20,
                               major=card["capability"][0], minor=card["capability"][1])

    def get_device_name(self):
        return self._visible()[0]["name"]

    def get_device_capability(self, index=None):
        return tuple(self._visible()[index or 0]["capability"])

    def get_arch_list(self):
        return given.get("archs", ["sm_75", "sm_80", "sm_86", "sm_90", "compute_90"])

    def mem_get_info(self, index):
        card = self._visible()[index]
        return (card["mebibytes"] - card["used"]) * 2**20, card["mebibytes"] * 2**20

    def is_bf16_supported(self, including_emulation=True):
        return self.get_device_capability()[0] >= 8

    def current_device(self):
        return 0


cuda = _Cuda()
backends = SimpleNamespace(mkldnn=SimpleNamespace(is_available=lambda: False))


def randn(*shape, device):
    return device


def allclose(one, other, atol):
    return True
'''
BITSANDBYTES = "def quantize_4bit(*_, **__): return ()\ndef dequantize_4bit(*_): return None\n"
ASK = """
import json
from assistant_builder import doctor
from assistant_builder.planning.hardware import this_machine
machine = this_machine()
gpu, _, backend, *_ = doctor._torch()
print(json.dumps({"name": machine.name, "device": machine.device, "devices": machine.devices,
                  "mebibytes": machine.memory_bytes / 2**20, "free": machine.free_bytes / 2**20,
                  "bfloat16": machine.bfloat16, "doctor": gpu.value, "ok": gpu.ok, "remedy": gpu.remedy,
                  "backend": backend.value}))
"""
Card = dict[str, Any]


def card(*values: Any) -> Card:
    """A card as the fake torch and the fake nvidia-smi know it; a faster one has a higher speed."""
    keys = ("name", "uuid", "mebibytes", "used", "capability", "speed")
    return dict(zip(keys, values, strict=True))


A100 = card("NVIDIA A100-SXM4-80GB", "aaaa0000-1111", 81920, 900, [8, 0], 9)
T4 = card("Tesla T4", "bbbb0000-2222", 15360, 300, [7, 5], 3)
K80 = card("Tesla K80", "cccc0000-3333", 11441, 0, [3, 7], 1)
MIG = card("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "dddd0000-4444", 9728, 13, [8, 0], 2)
MI300 = card("AMD Instinct MI300X", "", 196592, 300, [9, 4], 9)


class Fake:
    """A fake machine that is queried in a child process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("bin", "lib", "python/torch", "python/bitsandbytes"):
            (folder / name).mkdir(parents=True)
        (folder / "python/torch/__init__.py").write_text(TORCH, encoding="utf-8")
        (folder / "python/bitsandbytes/__init__.py").write_text("", encoding="utf-8")
        (folder / "python/bitsandbytes/functional.py").write_text(BITSANDBYTES, encoding="utf-8")
        # any library that can be loaded
        (folder / "lib/libcuda.so.1").symlink_to(Path(_ctypes.__file__))

    def smi(
        self, cards: Sequence[Card] = (), *, code: int = 0, hangs: bool = False, **shown: str
    ) -> None:
        """Create an nvidia-smi that lists the GPUs in bus order, with ``shown`` in place of fields of each GPU."""
        values = [
            {
                "name": card["name"],
                "uuid": f"GPU-{card['uuid']}",
                "memory.total": str(card["mebibytes"]),
                "memory.free": str(card["mebibytes"] - card["used"]),
                "compute_cap": ".".join(map(str, card["capability"])),
                **{key.replace("_", "."): value for key, value in shown.items()},
            }
            for card in cards
        ]
        path = self._folder / "bin/nvidia-smi"
        path.write_text(
            f"#!{sys.executable}\nimport sys, time\ntime.sleep({60 if hangs else 0})\n"
            f"fields = sys.argv[1].removeprefix('--query-gpu=').split(',')\nfor card in {values!r}:\n"
            f"    print(', '.join(card[field] for field in fields))\nsys.exit({code})\n",
            encoding="utf-8",
        )
        path.chmod(0o755)

    def ask(
        self,
        cards: Sequence[Card] = (),
        *,
        build: str | None = "cuda",
        variables: dict[str, str] | None = None,
        **given: Any,
    ) -> dict[str, Any]:
        """Results of planner and doctor if torch sees these GPUs in bus order."""
        told = {"cards": cards, **({build: "13.0"} if build else {}), **given}
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.endswith("VISIBLE_DEVICES")
        }
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={
                **kept,
                "PATH": f"{self._folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "LD_LIBRARY_PATH": str(self._folder / "lib"),
                "PYTHONPATH": os.pathsep.join([str(self._folder / "python"), str(ROOT)]),
                "FAKE_TORCH": json.dumps(told),
                **(variables or {}),
            },
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def test_one_gpu(fake):
    fake.smi([A100])
    found = fake.ask([A100])
    assert found["name"] == "NVIDIA A100-SXM4-80GB"
    assert found["device"] == "cuda"
    assert found["devices"] == 1
    assert (found["mebibytes"], found["free"], found["bfloat16"]) == (81920, 81020, True)
    assert found["ok"] and found["doctor"] == "NVIDIA A100-SXM4-80GB, 86 GB, bfloat16"
    assert found["backend"] == "bitsandbytes works on CUDA 13.0"


@pytest.mark.parametrize(
    ("variables", "name", "free"),
    [
        (
            {"CUDA_VISIBLE_DEVICES": "1"},
            T4["name"],
            15060,
        ),  # by speed, which is torch's order: 0 is the A100
        ({"CUDA_VISIBLE_DEVICES": "0"}, A100["name"], 81020),
        ({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, T4["name"], 15060),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aaaa"}, A100["name"], 81020),
        ({}, A100["name"], 81020),
    ],
)
def test_the_gpu_that_torch_uses_first_is_planned_for(fake, variables, name, free):
    fake.smi([T4, A100])
    found = fake.ask([T4, A100], variables=variables)
    assert (found["name"], found["devices"], found["free"]) == (name, 1, free)
    assert found["bfloat16"] == (name == A100["name"])


@pytest.mark.parametrize("shown", ["", "-1"])
def test_hidden_gpus_are_not_planned_for(fake, shown):
    fake.smi([A100])
    found = fake.ask([A100], variables={"CUDA_VISIBLE_DEVICES": shown})
    assert found["device"] == "cpu"
    assert found["doctor"] == (f"none: models run on the CPU (CUDA_VISIBLE_DEVICES is {shown!r})")


@pytest.mark.parametrize("value", ["[N/A]", "[Not Supported]", "[Insufficient Permissions]"])
def test_torch_measures_memory_that_nvidia_smi_does_not_report(fake, value):
    fake.smi([A100], memory_total=value, memory_free=value, compute_cap=value)
    found = fake.ask([A100])
    assert (found["device"], found["mebibytes"], found["free"]) == ("cuda", 81920, 81020)


@pytest.mark.parametrize(
    "broken", [{"code": 9}, {"hangs": True}, {}], ids=["fails", "hangs", "silent"]
)
def test_gpus_are_found_without_nvidia_smi(fake, broken):
    fake.smi(**broken)
    found = fake.ask([A100])
    assert (found["name"], found["free"]) == (A100["name"], 81020)


@pytest.mark.parametrize("shown", [None, "MIG-dddd0000-4444"])
def test_a_mig_partition_has_its_own_memory(fake, shown):
    fake.smi([A100])  # nvidia-smi lists only the complete GPU
    found = fake.ask([MIG], variables={"CUDA_VISIBLE_DEVICES": shown} if shown else {})
    assert (found["mebibytes"], found["free"], found["devices"]) == (9728, 9715, 1)


def test_an_amd_gpu(fake):
    found = fake.ask([MI300, MI300], build="hip", variables={"HIP_VISIBLE_DEVICES": "1"})
    # the CUDA library replaces the driver folder of AMD
    assert (found["name"], found["device"], found["devices"]) == (MI300["name"], "cuda", 1)
    assert (found["free"], found["bfloat16"]) == (196292, True)
    assert found["backend"] == "bitsandbytes works on ROCm 13.0"


def test_a_gpu_that_torch_cannot_use_is_not_planned_for(fake):
    fake.smi([A100])
    found = fake.ask([A100], build=None)
    assert found["device"] == "cpu"
    assert not found["ok"]
    assert "CUDA_VISIBLE_DEVICES=" in found["remedy"]
    assert found["doctor"] == (
        "NVIDIA A100-SXM4-80GB cannot be used by PyTorch: this build of PyTorch supports only "
        "the CPU; models run on the CPU"
    )
    found = fake.ask([A100], old_driver=True)
    assert found["device"] == "cpu" and "driver on your system is too old" in found["doctor"]


def test_a_gpu_without_kernels_in_the_torch_build_is_not_used(fake):
    fake.smi([K80])
    found = fake.ask([K80])
    assert found["device"] == "cpu" and not found["ok"]
    assert (
        "not usable: this build of PyTorch has no kernels for compute capability 3.7"
        in found["doctor"]
    )
    assert found["backend"] == "bitsandbytes works on the CPU"
    fake.smi([A100, K80])
    found = fake.ask([A100, K80])
    assert (found["name"], found["devices"], found["ok"]) == (A100["name"], 1, False)


def test_equal_gpus_train_together(fake):
    other = {**A100, "uuid": "eeee0000-5555", "used": 40000}
    fake.smi([A100, other, T4])
    found = fake.ask([A100, other, T4])
    assert (found["name"], found["devices"]) == (A100["name"], 2)
