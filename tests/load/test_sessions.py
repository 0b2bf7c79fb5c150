import asyncio

import pytest

from tests.load.sessions import crowd


@pytest.mark.slow
def test_every_user_gets_their_own_answers_and_files(home):
    tally = asyncio.run(crowd(home, talkers=8, uploaders=3, seconds=8))
    assert tally.wrong == []
    assert tally.answers >= 8 and tally.uploads >= 3
    assert tally.places >= 8, "where one stands in the queue is told"
    assert max(tally.memory) < 2 * 10**9
