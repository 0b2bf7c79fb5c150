"""Kinds of stores: what a URL stands for, and one that a module outside the product registers."""

import json

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.errors import StoreError
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.store_kinds import STORE_KINDS, example_urls, store_kind
from tests.commands import python, with_plugin

KIND = """
from assistant_builder.store_kinds import STORE_KINDS, StoreKind

STORE_KINDS.register(StoreKind("vault", "vault of the company", ("vault",), "vault://shelf/studies", package="vaultfs",
                               credentials="VAULT_TOKEN"))
"""
SHOWN = """
import json
from assistant_builder.config import StudyConfig
from assistant_builder.config.executor import ExecutorConfig
from assistant_builder.errors import ConfigError, StoreError
from assistant_builder.runner.consent import Consent
from assistant_builder.store_kinds import store_kind
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.ui.train.preflight_view import contacts_note

config = StudyConfig().with_changes({"executor.store": "vault://shelf/studies"})
Consent(False, ["vault://shelf/studies"])(config)
try:
    StudyConfig().with_changes({"executor.store": "nowhere"})
except ConfigError as error:
    wrong = str(error)
print(json.dumps({
    "examples": ExecutorConfig.model_json_schema()["properties"]["store"]["examples"],
    "page": str(contacts_note(config)), "wrong": wrong, "credentials": str(store_kind("vault://x").credentials_remedy),
}))
"""


@pytest.mark.parametrize(
    ("url", "name", "shared"),
    [
        ("s3://bucket/x", "s3", True),
        ("s3a://bucket/x", "s3", True),
        ("file:///x", "file", True),
        ("memory://x", "memory", False),
        ("gs://bucket/x", "gs", True),
    ],
)
def test_a_url_has_a_kind(url, name, shared):
    kind = store_kind(url)
    assert (kind.name, kind.shared) == (name, shared)
    assert url.partition("://")[0] in kind.schemes
    assert kind.label
    assert str(kind.credentials_remedy).startswith("Set ")


def test_kinds_exclude_one_another_and_fsspec_opens_their_schemes():
    from fsspec.registry import known_implementations

    schemes = [scheme for kind in STORE_KINDS.values() for scheme in kind.schemes]
    assert len(set(schemes)) == len(schemes) and set(schemes) <= known_implementations.keys()
    for kind in STORE_KINDS.values():
        assert kind.example.startswith(tuple(f"{scheme}://" for scheme in kind.schemes))
        addresses = StudyConfig().with_changes({"executor.store": kind.example}).external_addresses
        assert addresses["executor.store"].endswith(f"{kind.example} ({kind.help})")


def test_a_memory_store_is_not_offered_as_an_example():
    assert example_urls() == ["s3://bucket/folder", "file:///shared/studies"]
    output = (
        StudyConfig()
        .with_changes({"executor.store": "memory://x"})
        .external_addresses["executor.store"]
    )
    assert "which other machines cannot use" in output


def test_a_missing_library_is_named_with_the_package(monkeypatch):
    def missing(url: str) -> None:
        raise ImportError("no s3fs")

    monkeypatch.setattr("fsspec.url_to_fs", missing)
    for url, remedy in (("s3://b/x", "pip install 's3fs'"), ("gs://b/x", "Install it on every")):
        with pytest.raises(StoreError) as caught:
            ObjectStore(url)
        assert remedy in str(caught.value.remedy)


def test_a_kind_from_outside_is_in_settings_page_and_command_line(tmp_path, home):
    done = python("-c", SHOWN, env=with_plugin(tmp_path, "vault_plugin", KIND))
    shown = json.loads(done.stdout)
    assert shown["examples"][-1] == "vault://shelf/studies"
    assert "vault://shelf/studies" in shown["wrong"]
    assert "(vault of the company)" in shown["page"] and "(vault of the company)" in done.stderr
    assert shown["credentials"] == "Set VAULT_TOKEN"
