"""Further looks at a test err as rarely as the documentation says."""

from benchmarks.simulate_looks import MARGIN, shares


def test_ten_looks_err_about_as_often_as_one_if_they_are_paid_for():
    paid, unpaid = (
        shares(MARGIN, "no worse", paid=paid, repetitions=2000) for paid in (True, False)
    )
    assert paid[0] == unpaid[0] and paid[-1] <= 0.035 < unpaid[-1]
    assert unpaid == sorted(unpaid) and paid == sorted(paid)
