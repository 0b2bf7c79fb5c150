import os
import stat

import pytest

from assistant_builder.errors import ConfigError
from assistant_builder.web.passwords import (
    PASSWORD_VARIABLE,
    PasswordHash,
    password_file,
    store_password,
    stored_password,
    take_secret,
)


def test_a_hash_matches_only_its_password():
    kept = PasswordHash.of("pass wörd")
    assert kept.matches("pass wörd") and not kept.matches("pass word") and not kept.matches("")
    assert PasswordHash.of("pass wörd").digest != kept.digest, "each has a salt of its own"
    assert PasswordHash.from_text(kept.to_text()) == kept
    assert PasswordHash.of("\ud800").matches("\ud800")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "md5$15$8$3$AAAA$AAAA",
        "scrypt$30$8$3$c2FsdHNhbHQ=$" + "A" * 43 + "=",
        "scrypt$1$8$3$c2FsdHNhbHQ=$AA==",
        "scrypt$15$8$3$c2FsdHNhbHQ=$AA==",
    ],
)
def test_invalid_or_too_expensive_hashes_are_rejected(text):
    with pytest.raises(ValueError):
        PasswordHash.from_text(text)


def test_stored_passwords_are_hashes_readable_only_by_their_owner(home):
    store_password("ann", "correct horse")
    store_password("bob", "battery staple")
    content = password_file().read_text(encoding="utf-8")
    assert "horse" not in content and "staple" not in content
    assert stat.S_IMODE(password_file().stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["passwords.json"]
    ann, bob = stored_password("ann"), stored_password("bob")
    assert ann is not None and ann.matches("correct horse") and not ann.matches("battery staple")
    assert bob is not None and bob.matches("battery staple")
    assert stored_password("eve") is None


def test_a_password_file_readable_by_others_is_rejected():
    store_password("ann", "correct horse")
    password_file().chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        stored_password("ann")


@pytest.mark.parametrize("content", ["{", "[]", '{"ann": 3}', '{"ann": "plain"}'])
def test_a_damaged_password_file_is_reported(content):
    store_password("ann", "correct horse")
    password_file().write_text(content, encoding="utf-8")
    with pytest.raises(Exception, match="damaged"):
        stored_password("ann")


def test_a_short_password_is_rejected():
    with pytest.raises(ConfigError, match="7 characters"):
        store_password("ann", "1234567")
    assert not password_file().exists()


def test_child_processes_do_not_inherit_the_password(monkeypatch):
    monkeypatch.setenv(PASSWORD_VARIABLE, "correct horse")
    assert take_secret(PASSWORD_VARIABLE) == "correct horse"
    assert PASSWORD_VARIABLE not in os.environ and take_secret(PASSWORD_VARIABLE) is None
