"""Cluster-robust standard errors against plain matrix algebra, statsmodels' formula and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from evals.stats.cluster_robust import (
    coarsest,
    cr2_standard_error,
    crossed_standard_error,
    intersection,
)
from evals.stats.intervals import t_interval
from evals.stats.units import make_units


def by_matrices(
    differences: np.ndarray, weights: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """CR2 and its Satterthwaite degrees of freedom from the full matrices of items (Pustejovsky and Tipton, 2018)."""
    n = len(differences)
    root = np.sqrt(weights)
    # weighted least squares of a constant: sqrt(w) y = sqrt(w) b + e, e with equal variances
    x = root[:, None]
    hat = x @ x.T / weights.sum()
    left = np.eye(n) - hat
    residuals = left @ (root * differences)
    scores, rows = [], []
    for label in np.unique(labels):
        own = labels == label
        values, vectors = np.linalg.eigh(left[np.ix_(own, own)])
        keep = values > 1e-10
        adjust = vectors[:, keep] @ np.diag(values[keep] ** -0.5) @ vectors[:, keep].T
        scores.append(float(x[own, 0] @ adjust @ residuals[own]) / weights.sum())
        rows.append(x[own, 0] @ adjust @ left[own] / weights.sum())
    covariance = np.array(rows) @ np.array(rows).T
    degrees = np.trace(covariance) ** 2 / np.square(covariance).sum()
    return math.sqrt(np.square(scores).sum()), degrees


@pytest.mark.parametrize("weighted", [False, True])
def test_cr2_equals_the_matrix_formula(weighted):
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(7), [1, 2, 3, 4, 9, 1, 12])
    weights = rng.integers(1, 40, len(labels)).astype(float) if weighted else np.ones(len(labels))
    differences = rng.normal(0, 1, len(labels)) + rng.normal(0, 1, 7)[labels]
    found = cr2_standard_error(make_units(differences, weights, labels.tolist()))
    assert (found.value, found.degrees_of_freedom) == pytest.approx(
        by_matrices(differences, weights, labels)
    )


def test_clusters_of_equal_weight_have_the_usual_error():
    rng = np.random.default_rng(4)
    units = make_units(rng.normal(0, 1, 60), np.ones(60), (np.arange(60) // 5).tolist())
    means = units.sums / 5
    found = cr2_standard_error(units)
    assert found.value == pytest.approx(float(stats.sem(means)))
    assert found.degrees_of_freedom == pytest.approx(11)
    assert t_interval(units) == pytest.approx(
        stats.t.interval(0.95, 11, means.mean(), stats.sem(means))
    )


def test_a_giant_cluster_leaves_few_degrees_of_freedom():
    labels = [0] * 50 + list(range(1, 51))
    units = make_units(np.linspace(-1, 1, 100), np.ones(100), labels)
    assert cr2_standard_error(units).degrees_of_freedom < 5


def test_crossed_labels_equal_the_formula_of_cameron_gelbach_and_miller():
    rng = np.random.default_rng(5)
    rows, columns = np.repeat(np.arange(12), 10), np.tile(np.arange(10), 12)
    differences = rng.normal(0, 1, 12)[rows] + rng.normal(0, 1, 10)[columns] + rng.normal(0, 1, 120)
    found = crossed_standard_error(differences, np.ones(120), rows.tolist(), columns.tolist())
    residual = differences - differences.mean()
    parts = [
        (
            np.square(np.bincount(code, residual)).sum()
            * len(np.unique(code))
            / (len(np.unique(code)) - 1)
        )
        / 120**2
        for code in (rows, columns, rows * 10 + columns)
    ]
    assert found.value == pytest.approx(math.sqrt(parts[0] + parts[1] - parts[2]))
    assert found.degrees_of_freedom == pytest.approx(9)


def test_crossed_labels_are_never_below_one_of_them():
    rows, columns = np.repeat(np.arange(10), 10), np.tile(np.arange(10), 10)
    # nothing is shared, apart from a trace
    differences = np.where((rows + columns) % 2, 1.0, -1.0) + 0.001 * rows
    found = crossed_standard_error(differences, np.ones(100), rows.tolist(), columns.tolist())
    alone = [
        cr2_standard_error(make_units(differences, np.ones(100), each.tolist())).value
        for each in (rows, columns)
    ]
    assert found.value >= max(alone)


def test_crossed_labels_cover_where_one_label_does_not():
    rng = np.random.default_rng(6)
    rows, columns = np.repeat(np.arange(20), 20), np.tile(np.arange(20), 20)
    covered = np.zeros(2)
    for _ in range(400):
        differences = (
            rng.normal(0, 1, 20)[rows] + rng.normal(0, 1, 20)[columns] + rng.normal(0, 1, 400)
        )
        one = cr2_standard_error(make_units(differences, np.ones(400), rows.tolist()))
        both = crossed_standard_error(differences, np.ones(400), rows.tolist(), columns.tolist())
        covered += [abs(differences.mean()) <= error.half_width(0.95) for error in (one, both)]
    assert covered[0] / 400 < 0.9 < 0.92 < covered[1] / 400


def test_blank_labels_are_alone_in_the_intersection():
    assert intersection(["a", "a", None, "b"], ["x", "x", "x", ""]) == [
        ("a", "x"),
        ("a", "x"),
        None,
        None,
    ]


def test_nested_labels_use_the_coarser():
    fact, family = ["a", "a", "b", "b", "c"], ["f", "f", "f", "f", "g"]
    answer = ["1", "2", "1", "2", "3"]
    assert coarsest({"cluster": fact, "group": family}) == ["group"]
    assert coarsest({"cluster": fact, "answer": answer}) == ["cluster", "answer"]
    assert coarsest({"cluster": fact, "same": list(fact)}) == ["cluster"]
    assert coarsest({"cluster": fact, "unique": list("vwxyz"), "blank": [None] * 5}) == ["cluster"]
    assert coarsest({"cluster": fact, "group": ["f", None, "g", "g", "g"]}) == ["cluster", "group"]


@pytest.mark.parametrize(("delta", "value", "expected"), [(0.0, 0.0, 1.0), (0.5, 0.0, 0.0)])
def test_p_value_without_spread(delta, value, expected):
    from evals.stats.cluster_robust import StandardError

    assert StandardError(value, 5).p_value(delta) == expected
