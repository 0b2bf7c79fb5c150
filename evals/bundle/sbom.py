"""The software that a verdict was computed with, as a CycloneDX bill of materials."""

from __future__ import annotations

import json
from importlib.metadata import distributions
from typing import Any

from assistant_builder import __version__


def bill_of_materials() -> dict[str, Any] | None:
    """The installed packages as a CycloneDX 1.6 document; None without the package ``cyclonedx-python-lib``."""
    try:
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
        from packageurl import PackageURL
    except ImportError:
        return None
    found = {each.name.lower().replace("_", "-"): each.version for each in distributions()}
    bom = Bom()
    root = Component(name="assistant-builder", version=__version__, type=ComponentType.APPLICATION)
    bom.metadata.component = root
    for name, version in sorted(found.items()):
        purl = PackageURL("pypi", None, name, version)
        bom.components.add(
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                purl=purl,
                bom_ref=purl.to_string(),
            )
        )
    bom.register_dependency(root, list(bom.components))
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    return document
