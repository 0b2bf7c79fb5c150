"""Registry of object stores by the scheme of their URL, such as ``s3://bucket/folder``.

fsspec opens the URL. An entry adds a label, the package to install, the credentials to set, and whether several
machines can share the store. A scheme without an entry works if fsspec supports it.
"""

from __future__ import annotations

from dataclasses import dataclass

from assistant_builder.i18n import Text, m
from assistant_builder.registry import Registry


@dataclass(frozen=True)
class StoreKind:
    """A kind of object store."""

    name: str
    label: str
    schemes: tuple[str, ...]  # URL schemes
    example: str  # example of a URL
    package: str = ""  # requirement for ``pip install``; empty if none is needed
    credentials: str = ""  # how credentials are set; empty if the store has none
    shared: bool = True  # whether other machines see what this one writes

    @property
    def help(self) -> str:
        """Example and restriction, for help texts."""
        return self.label + ("" if self.shared else ", which other machines cannot use")

    @property
    def credentials_remedy(self) -> Text:
        """Remedy for missing credentials."""
        return (
            m("Set {credentials}", credentials=self.credentials)
            if self.credentials
            else m("Set the credentials that this kind of store needs")
        )


STORE_KINDS: Registry[StoreKind] = Registry("store")
STORE_KINDS.register(
    StoreKind(
        "s3",
        "S3-compatible object store",
        ("s3", "s3a"),
        "s3://bucket/folder",
        package="s3fs",
        credentials="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL for a service other than "
        "Amazon's",
    )
)
STORE_KINDS.register(
    StoreKind(
        "file",
        "folder, shared by a network file system",
        ("file", "local"),
        "file:///shared/studies",
    )
)
STORE_KINDS.register(
    StoreKind("memory", "memory of this process", ("memory",), "memory://studies", shared=False)
)


def store_kind(url: str) -> StoreKind:
    """The kind of store of a URL; a generic kind for a scheme without an entry."""
    scheme = url.partition("://")[0]
    for kind in STORE_KINDS.values():
        if scheme in kind.schemes:
            return kind
    return StoreKind(scheme, f"store that fsspec opens as {scheme}", (scheme,), f"{scheme}://…")


def example_urls() -> list[str]:
    """An example of a URL for each kind that several machines can share."""
    return [kind.example for kind in STORE_KINDS.values() if kind.shared]
