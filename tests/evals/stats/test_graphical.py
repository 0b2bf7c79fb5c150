"""The graph of levels: Bretz' published example, the files of two arms, and the family-wise error rate."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, permutations

import pytest

from evals.stats.graphical import Graph, graphical_test, sequences_graph

HALF, ONE = Fraction(1, 2), Fraction(1)
TWO = (("L8", "L4"), ("Q8", "Q4"))
SHAPES: tuple[Sequence[Sequence[str]], ...] = (
    (("L8",),),
    (("L16", "L8", "L4"),),
    TWO,
    (("L8",), ("Q8", "Q4")),
    (("L8", "L4"), ("Q8",)),
    ((), ("Q8", "Q4")),
    (("L16", "L8", "L4"), ("Q16", "Q8", "Q4")),
    (("L8", "L4"), ("Q8", "Q4"), ("F8", "F4")),
)


def at(p_values: Mapping[str, float], level: float = 0.05) -> Callable[[str, Fraction], bool]:
    return lambda node, share: p_values[node] <= level * share


def shares_of(graph: Graph[str]) -> dict[str, Fraction]:
    return {node: share for node, share in graph.shares.items() if share}


def subsets(nodes: Sequence[str]) -> Iterator[set[str]]:
    return (set(chosen) for count in range(len(nodes) + 1) for chosen in combinations(nodes, count))


def test_the_published_example():
    """Two primary and two secondary hypotheses (Bretz et al. 2009, figure 3): parallel gatekeeping with feedback."""
    graph = Graph(
        {"H1": HALF, "H2": HALF, "H3": Fraction(0), "H4": Fraction(0)},
        {
            "H1": {"H2": HALF, "H3": HALF},
            "H2": {"H1": HALF, "H4": HALF},
            "H3": {"H4": ONE},
            "H4": {"H3": ONE},
        },
    )
    first = graph.without("H1")
    assert first.shares == {"H2": Fraction(3, 4), "H3": Fraction(1, 4), "H4": 0}
    assert first.edges == {
        "H2": {"H3": Fraction(1, 3), "H4": Fraction(2, 3)},
        "H3": {"H4": 1},
        "H4": {"H3": 1},
    }
    second = first.without("H2")
    assert second.shares == {"H3": HALF, "H4": HALF}
    assert second.edges == {"H3": {"H4": 1}, "H4": {"H3": 1}}
    assert second.without("H3").shares == {"H4": 1} and second.without("H3").edges == {"H4": {}}
    found = graphical_test(graph, at({"H1": 0.02, "H2": 0.03, "H3": 0.012, "H4": 0.04}))
    assert [outcome.rejected for outcome in found.values()] == [True, True, True, True]


def test_without_feedback_it_is_holm():
    graph = Graph(
        {name: Fraction(1, 3) for name in "abc"},
        {name: {other: HALF for other in "abc" if other != name} for name in "abc"},
    )
    found = graphical_test(graph, at({"a": 0.016, "b": 0.024, "c": 0.06}))
    assert {name: (outcome.rejected, outcome.share) for name, outcome in found.items()} == {
        "a": (True, Fraction(1, 3)),
        "b": (True, HALF),
        "c": (False, ONE),
    }


def test_the_level_begins_at_the_largest_file_of_the_first_arm():
    graph = sequences_graph(TWO)
    assert shares_of(graph) == {"L8": ONE}
    after = graph.without("L8")
    assert shares_of(after) == {"L4": HALF, "Q8": HALF}
    # an arm that is done passes its level to the other
    assert shares_of(after.without("L4")) == {"Q8": ONE}
    assert shares_of(after.without("Q8")) == {"L4": HALF, "Q4": HALF}
    # to the first file that is open
    assert shares_of(after.without("Q8").without("L4")) == {"Q4": ONE}
    assert shares_of(after.without("Q8").without("Q4")) == {"L4": ONE}
    assert not shares_of(after.without("Q8").without("Q4").without("L4"))


def test_an_arm_without_another_file_passes_all_of_its_level():
    assert shares_of(sequences_graph((("L8",), ("Q8", "Q4"))).without("L8")) == {"Q8": ONE}
    assert shares_of(sequences_graph((("L8", "L4"), ())).without("L8")) == {"L4": ONE}
    assert shares_of(sequences_graph(((), ("Q8", "Q4")))) == {"Q8": ONE}
    three = sequences_graph((("L8", "L4"), ("Q8",), ("F8",)))
    assert shares_of(three.without("L8")) == {
        "L4": HALF,
        "Q8": Fraction(1, 4),
        "F8": Fraction(1, 4),
    }
    assert shares_of(three.without("L8").without("Q8")) == {
        "L4": Fraction(4, 7),
        "F8": Fraction(3, 7),
    }


def test_a_file_that_failed_is_tested_again_when_level_arrives():
    asked: list[tuple[str, Fraction]] = []

    def rejects(node: str, share: Fraction) -> bool:
        asked.append((node, share))
        return {"L8": 0.01, "L4": 0.01, "Q8": 0.04, "Q4": 0.3}[node] <= 0.05 * share

    found = graphical_test(sequences_graph(TWO), rejects)
    assert asked == [("L8", ONE), ("L4", HALF), ("Q8", ONE), ("Q4", ONE)]
    asked.clear()
    graph = sequences_graph(TWO)
    other = graphical_test(
        Graph({node: graph.shares[node] for node in ("L8", "Q8", "Q4", "L4")}, graph.edges), rejects
    )
    assert asked == [("L8", ONE), ("Q8", HALF), ("L4", HALF), ("Q8", ONE), ("Q4", ONE)]
    assert other == found and found["Q4"].share == ONE and not found["Q4"].rejected


def test_after_a_failure_the_smaller_files_are_not_tested():
    found = graphical_test(sequences_graph(TWO), at({"L8": 0.06, "L4": 0.0, "Q8": 0.0, "Q4": 0.0}))
    assert {node: (outcome.rejected, outcome.share) for node, outcome in found.items()} == {
        "L8": (False, ONE),
        "L4": (False, 0),
        "Q8": (False, 0),
        "Q4": (False, 0),
    }
    found = graphical_test(sequences_graph(TWO), at({"L8": 0.0, "L4": 0.2, "Q8": 0.2, "Q4": 0.0}))
    assert {node: outcome.share for node, outcome in found.items()} == {
        "L8": ONE,
        "L4": HALF,
        "Q8": HALF,
        "Q4": 0,
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_state_of_a_graph_has_more_than_the_level(shape):
    """Shares are together at most 1 after any rejections, and their order does not matter: so the error is bounded."""
    nodes = [node for line in shape for node in line]
    known: dict[frozenset[str], Mapping[str, Fraction]] = {}
    orders = (
        list(permutations(nodes))
        if len(nodes) <= 4
        else random.Random(0).choices(list(permutations(nodes)), k=60)
    )
    for order in orders:
        graph = sequences_graph(shape)
        for done, node in enumerate((None, *order)):
            graph = graph if node is None else graph.without(node)
            assert sum(graph.shares.values()) <= 1
            assert all(share >= 0 for share in graph.shares.values())
            assert all(0 < share for edges in graph.edges.values() for share in edges.values())
            assert all(
                sum(edges.values()) <= 1 and source not in edges
                for source, edges in graph.edges.items()
            )
            assert known.setdefault(frozenset(order[:done]), graph.shares) == graph.shares


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_order_of_the_hypotheses_does_not_matter(shape):
    luck, graph = random.Random(1), sequences_graph(shape)
    for _ in range(40):
        p_values = {node: luck.random() ** 4 / 4 for node in graph.shares}
        found = graphical_test(graph, at(p_values))
        for _ in range(5):
            order = luck.sample(list(graph.shares), len(graph.shares))
            other = graphical_test(
                Graph({node: graph.shares[node] for node in order}, graph.edges), at(p_values)
            )
            assert all(
                (outcome.rejected, outcome.rejected or outcome.share)
                == (other[node].rejected, other[node].rejected or other[node].share)
                for node, outcome in found.items()
            )


DEPENDENCE: dict[str, Callable[[random.Random, Mapping[str, Fraction]], dict[str, float]]] = {
    "independent": lambda luck, shares: {node: luck.random() for node in shares},
    "equal": lambda luck, shares: dict.fromkeys(shares, luck.random()),
    "disjoint": lambda luck, shares: _disjoint(luck.random(), shares),
}


def _disjoint(value: float, shares: Mapping[str, Fraction]) -> dict[str, float]:
    """Uniform p-values of which at most one is below its share of 5 %: the worst case of Bonferroni's inequality."""
    found = {}
    for node, share in shares.items():
        found[node] = value
        value = (value - 0.05 * float(share)) % 1
    return found


@pytest.mark.parametrize("dependence", DEPENDENCE)
@pytest.mark.parametrize("shape", [TWO, SHAPES[6]], ids=["two files", "three files"])
def test_the_family_wise_error_is_at_most_five_percent(shape, dependence):
    """Every set of files that are worse by exactly the margin; all others are so good that they are always shown."""
    luck, graph = random.Random(2), sequences_graph(shape)
    draws, rates = 200 if len(graph.shares) > 4 else 800, []
    for worse in subsets(list(graph.shares)):
        left = graph
        for node in graph.shares.keys() - worse:
            left = left.without(node)
        # of those without a share nothing depends on the p-value before another error has occurred
        p_values = (
            dict.fromkeys(left.shares, 1.0) | DEPENDENCE[dependence](luck, shares_of(left))
            for _ in range(draws)
        )
        rates.append(
            sum(
                any(outcome.rejected for outcome in graphical_test(left, at(found)).values())
                for found in p_values
            )
            / draws
        )
        # with the error of the simulation
        assert rates[-1] <= 0.05 + 3.5 * (0.05 * 0.95 / draws) ** 0.5, worse
    assert rates[0] == 0
    mean = sum(rates[1:]) / len(rates[1:])
    assert 0.035 < mean <= 0.05 + 3 * (0.05 * 0.95 / draws / len(rates[1:])) ** 0.5
