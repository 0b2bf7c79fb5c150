"""What Ray's own processes on the nodes are given by the process that runs a study."""

from __future__ import annotations

import pytest

from assistant_builder.cluster.ray_client import connect
from tests.cluster.conftest import Nodes
from tests.shadowing_modules import Shadows


@pytest.mark.cluster
def test_workers_import_nothing_of_the_drivers_current_folder(
    nodes: Nodes, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    shadows = Shadows(tmp_path_factory.mktemp("driver") / "handed-on")
    monkeypatch.chdir(shadows.folder)
    ray.shutdown()  # another test may have connected elsewhere
    connect(nodes.address)

    def look() -> list[str]:
        import sys

        import assistant_builder.cluster.tasks  # noqa: F401 - what tasks run

        return sys.path

    try:
        path = ray.get(ray.remote(look).options(num_cpus=1).remote(), timeout=120)
    finally:
        ray.shutdown()
    assert str(shadows.folder) not in path and shadows.run == []
