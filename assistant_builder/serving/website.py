"""Settings of a chat bubble that the page serves for a website.

They are ``website.json`` in the study's folder. Port and token of the widget stay the same, so that the line in the
website's pages is valid after a restart. Without a key only the paths of the widget are served. A study can come from
somebody else, so its file starts nothing: what was published here is remembered in the home folder, outside all
studies.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from assistant_builder.atomic_io import read_json, write_bytes, write_json
from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.i18n import m
from assistant_builder.study import Study, home

_PROXY = "127.0.0.1"  # the program on this computer that has the https address


@dataclass(frozen=True)
class Website:
    """Settings of the bubble of a study.

    Attributes:
        title: Name of the assistant in the bubble; empty for that of the study.
        origin: Address of the website whose pages have the bubble.
        address: The https address under which these pages reach the server.
        contact: Line that is shown where the assistant declines.
        remember: Whether questions are kept for the inbox.
        mode: Who answers, ``copy`` or ``tuned``; empty for what the report recommends.
        served: Who answered when it was put on the website; stays until its owner serves it again.
        port: Port on this computer; 0 before the first start.
        running: Whether it is served while the page runs.
    """

    title: str = ""
    origin: str = ""
    address: str = ""
    contact: str = ""
    remember: bool = False
    port: int = 0
    running: bool = False
    mode: str = ""
    served: str = ""

    @classmethod
    def of(cls, study: Study) -> Website:
        """The settings of a study."""
        path = _file(study)
        return read_json(path, cls) if path.is_file() else cls()

    def save(self, study: Study) -> None:
        """Keep the settings with the study, and remember them as published if it is served."""
        write_json(_file(study), asdict(self))
        known = _published()
        if self.running:
            known[study.name] = self._digest
        elif known.pop(study.name, None) is None:
            return
        content = json.dumps(known, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        write_bytes(published_file(), content.encode(), mode=0o600)

    def is_published(self, study: Study) -> bool:
        """Whether exactly these settings were published with the study on this computer."""
        return self.running and _published().get(study.name) == self._digest

    @property
    def _digest(self) -> str:
        later = ("mode", "served")  # earlier releases had none
        settings = {
            name: value for name, value in asdict(self).items() if value or name not in later
        }
        content = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()

    def checked(self) -> Website:
        """The settings with complete addresses.

        Raises:
            ConfigError: An address is missing or wrong.
        """
        found = replace(self, origin=_address(self.origin), address=_address(self.address))
        if urlsplit(found.address).scheme != "https":
            raise ConfigError(
                m("{address} is no https address", address=found.address),
                remedy=m(
                    "Browsers load the chat into a website only over https. A tunnel program or the reverse proxy of "
                    "your network has such an address: write it as https://chat.example.com"
                ),
            )
        found.config()
        return found

    def config(self) -> ServingConfig:
        """The settings of its server.

        Raises:
            ConfigError: One of them is wrong.
        """
        host = urlsplit(_address(self.address)).hostname
        try:
            return ServingConfig(
                port=self.port,
                widget=True,
                allow_origin=(_address(self.origin),),
                allow_host=(host or "",),
                proxy=_PROXY,
                title=self.title.strip(),
                contact=self.contact.strip(),
                remember="texts" if self.remember else "nothing",
            )
        except ValidationError as error:
            texts = "; ".join(str(each["msg"]) for each in error.errors())
            raise ConfigError(texts, remedy=m("Correct the fields")) from error


def published_file() -> Path:
    """The file that names the studies whose bubbles were published here, each with a hash of its settings."""
    return home() / "websites.json"


def published_site(study: Study) -> str:
    """Host of the website that has the bubble of a study; empty if none was published on this computer."""
    with suppress(StudyError):  # damaged settings publish nothing
        website = Website.of(study)
        if website.is_published(study):
            return urlsplit(website.origin).netloc
    return ""


def _published() -> dict[str, str]:
    path = published_file()
    try:
        return dict(read_json(path, dict[str, str])) if path.is_file() else {}
    except StudyError:
        return {}


def _file(study: Study) -> Path:
    return study.folder / "website.json"


def _address(text: str) -> str:
    """The scheme and host of what somebody writes as an address."""
    text = text.strip().rstrip("/")
    remedy = m("Write both addresses, such as https://www.example.com")
    if not text:
        raise ConfigError(m("an address is missing"), remedy=remedy)
    with suppress(ValueError):  # of the host or the port
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host = parts.hostname or ""
        plain = all(letter.isalnum() or letter in ".-" for letter in host)
        if plain and "." in host and parts.port != 0 and not parts.username:
            return f"{parts.scheme.lower()}://{parts.netloc.lower()}"
    raise ConfigError(
        m("{text!r} is no address of a website", text=text),
        remedy=remedy,
    )
