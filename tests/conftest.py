"""Fixtures for every test."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.devices import driver_present
from assistant_builder.forking import STEPS, Preloaded
from assistant_builder.models import bundled
from assistant_builder.runner import invalidation, local_runner
from assistant_builder.store import lease, sync
from assistant_builder.study import locks

SECRET = "canary-secret-access-key"


def s3_environment(endpoint: str) -> dict[str, str]:
    """Environment variables of a client of the tests' S3-compatible server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "canary-key-id",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


class CaseSeconds:
    """Remembers how long each case took, in pytest's cache, and hands it to the workers of the next run."""

    KEY = "assistant-builder/seconds"

    def __init__(self, config: pytest.Config) -> None:
        self.cache = getattr(config, "cache", None)  # not with -p no:cacheprovider
        self.known: dict[str, float] = (
            self.cache.get(self.KEY, {}) if self.cache is not None else {}
        )
        self.measured: dict[str, float] = defaultdict(float)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[self.KEY] = self.known

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.measured[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        if self.cache is not None:
            self.cache.set(
                self.KEY,
                self.known | {name: round(took, 2) for name, took in self.measured.items()},
            )


known_seconds = pytest.StashKey[dict[str, float]]()


def pytest_configure(config: pytest.Config) -> None:
    """Read what the last run measured."""
    if hasattr(config, "workerinput"):
        config.stash[known_seconds] = config.workerinput[CaseSeconds.KEY]
    else:
        config.pluginmanager.register(measured := CaseSeconds(config))
        config.stash[known_seconds] = measured.known


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the files that take long first, so that no worker is left with one at the end.

    A case that was never measured is taken to last a second, or five in a browser or with a model.
    """
    known, seconds = config.stash[known_seconds], defaultdict[Path, float](float)
    for item in items:
        slow = any(item.get_closest_marker(name) for name in ("browser", "train"))
        seconds[item.path] += known.get(item.nodeid, 5.0 if slow else 0.1)
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the product at an empty home, so that no test touches the user's studies."""
    folder = tmp_path / "home"
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(folder))
    return folder


class SharedLibraries(Preloaded):
    """A process with the libraries of the steps, which is started by the first step that it is forked for."""

    def __init__(self) -> None:
        self._started: Preloaded | None = None

    def start(self, *request: Any) -> int:
        self._started = self._started or Preloaded(STEPS)
        return self._started.start(*request)

    def close(self) -> None:
        if self._started is not None:
            self._started.close()


@pytest.fixture(scope="session", autouse=True)
def shared_libraries() -> Iterator[None]:
    """Import the libraries of the steps once for all runs of this worker, which would take each run ten seconds."""
    shared = None if driver_present() else SharedLibraries()

    @contextmanager
    def preloaded(study: Any) -> Iterator[Preloaded | None]:
        yield shared

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_runner, "_preloaded", preloaded)
        yield
    if shared is not None:
        shared.close()


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """A home of the tests' own that outlives them, with the bundled models made in it once."""
    folder = Path(
        os.environ.get("ASSISTANT_BUILDER_TEST_CACHE")
        or Path.home() / ".cache" / "assistant-builder-tests"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(folder))
        bundled.ensure_base_model()
        bundled.ensure_embedder()
    return folder


@pytest.fixture
def converter(home: Path, model_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put llama.cpp's converter into the test's home, as a link."""
    from assistant_builder.models.gguf_convert import CONVERTER, ensure_converter

    for package in ("sentencepiece", "google.protobuf"):
        pytest.importorskip(package, reason="the extra gguf is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(model_cache))
        made = ensure_converter()
    CONVERTER.folder.parent.mkdir(parents=True, exist_ok=True)
    CONVERTER.folder.symlink_to(made)
    return made


@pytest.fixture(scope="session")
def compute_dtype() -> str:
    """What models compute in on this machine: bfloat16 where the processor has it, else float32."""
    from assistant_builder.models.loading import resolve_compute_dtype

    return resolve_compute_dtype("auto", "cpu")


@pytest.fixture
def bundled_models(home: Path, model_cache: Path) -> Path:
    """Put the bundled models into the test's home, as links; returns the home's ``models`` folder."""
    models = home / "models"
    models.mkdir(parents=True, exist_ok=True)
    for bundle in bundled.BUNDLES:
        (models / bundle.name).symlink_to(model_cache / "models" / bundle.name)
    return models


@pytest.fixture
def multilingual_model(bundled_models: Path, model_cache: Path) -> Path:
    """Make the multilingual embedder, which few tests need, for the test's home; returns its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(model_cache))
        bundled.ensure_multilingual_embedder()
    return bundled_models / bundled.MULTILINGUAL_EMBEDDER


@pytest.fixture(scope="session")
def short_base(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled base without all but its first four layers: its tokenizer and widths, and an eighth of the work."""
    from safetensors.torch import load_file, save_file

    whole, folder = (
        model_cache / "models" / bundled.BUNDLES[0].name,
        tmp_path_factory.mktemp("base") / "short",
    )
    shutil.copytree(
        whole, folder, ignore=shutil.ignore_patterns("*.safetensors", "SHA256SUMS", "origin.json")
    )
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "num_hidden_layers": 4})
    beyond = tuple(f"model.layers.{layer}." for layer in range(4, config["num_hidden_layers"]))
    tensors = load_file(whole / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if not name.startswith(beyond)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3-compatible server on the loopback."""
    pytest.importorskip("moto.server")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a folder in a bucket there; the environment holds what it takes to get in."""
    import fsspec

    for name, value in s3_environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    # they remember address and credentials
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    s3 = fsspec.filesystem("s3")
    s3.mkdir("of-tests")
    yield "s3://of-tests/studies"
    s3.rm("of-tests", recursive=True)


@pytest.fixture
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is lost is known to be within seconds."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "TAKEOVER_SECONDS", 0.5)
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(sync, "PUSH_SECONDS", 0.2)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty store in this process.

    As in a real store, every reader has a position of its own, and nobody sees an object that is half written: threads
    stand for nodes here, and fsspec's file system in memory lets them share both.
    """
    import fsspec
    from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

    plain = MemoryFileSystem._open

    def opened(self: MemoryFileSystem, path: str, mode: str = "rb", **options: Any) -> MemoryFile:
        file: MemoryFile = plain(self, path, mode, **options)
        return MemoryFile(None, None, file.getvalue()) if mode == "rb" else file

    def put_file(self: MemoryFileSystem, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    monkeypatch.setattr(MemoryFileSystem, "_open", opened)
    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    fsspec.filesystem("memory").store.clear()
    yield "memory://of-tests/studies"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def sleeping_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps do as ``fake_step.py`` says, and nothing else."""
    from tests.cluster.conftest import fake_command

    monkeypatch.setattr(invalidation, "step_inputs", lambda study, step, **_: {})
    monkeypatch.setattr(local_runner, "step_command", fake_command)
    monkeypatch.setattr(local_runner, "require_study_fit", lambda study: None)
