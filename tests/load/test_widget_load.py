import asyncio

import pytest

from benchmarks.widget_checks import checks
from benchmarks.widget_load import conversing_example, run_load


@pytest.mark.slow
@pytest.mark.usefixtures("bundled_models")
def test_fifty_visitors_at_once_lose_nothing_and_get_their_own_answers():
    study = conversing_example()
    load = asyncio.run(run_load(study.folder.name, "scripted", 50, 20, slots=4, rounds=20))
    failed = [f"{check.name}: {check.found}" for check in checks(load, study) if not check.passed]
    assert not failed, "\n".join(failed)
    assert sum(asked.ended for asked in load.site.asked) >= 50
    assert sum(asked.left for asked in load.site.asked) > 50, (
        "two at each first text, and those who leave"
    )
