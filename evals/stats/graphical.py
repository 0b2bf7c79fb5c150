"""Sequentially rejective tests of several hypotheses by a graph that passes significance levels on.

Bretz, Maurer, Brannath and Posch (2009), A graphical approach to sequentially rejective multiple test procedures,
Statistics in Medicine 28, 586–604, algorithm 1. The family-wise error rate is at most the level of the whole graph,
whatever the hypotheses have to do with one another. Shares of that level are fractions, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

Node = TypeVar("Node", bound=Hashable)


@dataclass(frozen=True)
class Graph(Generic[Node]):
    """Hypotheses with shares of the level.

    Attributes:
        shares: Hypothesis → its share of the level of the graph, in the order of testing; together at most 1.
        edges: Hypothesis → share of its own share that each other one receives when it is rejected; together at most 1.
    """

    shares: Mapping[Node, Fraction]
    edges: Mapping[Node, Mapping[Node, Fraction]]

    def without(self, node: Node) -> Graph[Node]:
        """The graph after the rejection of a hypothesis, whose share and whose incoming edges are passed on."""
        given = self.edges.get(node, {})
        rest = [other for other in self.shares if other != node]
        edges: dict[Node, dict[Node, Fraction]] = {}
        for source in rest:
            own = self.edges.get(source, {})
            through = own.get(node, Fraction(0))
            loop = through * given.get(source, Fraction(0))
            found = (
                {
                    target: (
                        own.get(target, Fraction(0)) + through * given.get(target, Fraction(0))
                    )
                    / (1 - loop)
                    for target in rest
                    if target != source
                }
                if loop < 1
                else {}
            )
            edges[source] = {target: share for target, share in found.items() if share}
        return Graph(
            {
                other: self.shares[other] + self.shares[node] * given.get(other, Fraction(0))
                for other in rest
            },
            edges,
        )


@dataclass(frozen=True)
class Outcome:
    """The result for one hypothesis: whether it was rejected, and the last share of the level that it was tested at.

    The share is 0 if it was not tested.
    """

    rejected: bool
    share: Fraction


def graphical_test(
    graph: Graph[Node], rejects: Callable[[Node, Fraction], bool]
) -> dict[Node, Outcome]:
    """Test hypotheses until none that has a share of the level can be rejected.

    Args:
        graph: Hypotheses, shares and edges. Which hypotheses are rejected does not depend on their order if whatever
            ``rejects`` rejects at one share it also rejects at a larger one.
        rejects: Whether a hypothesis is rejected at a share of the level, larger than 0. A hypothesis that was not is
            tested again when its share has grown.

    Returns:
        A result for each hypothesis, in the order of the graph.
    """
    found = {node: Outcome(False, Fraction(0)) for node in graph.shares}
    while True:
        node = next(
            (node for node, share in graph.shares.items() if share > found[node].share), None
        )
        if node is None:
            return found
        share = graph.shares[node]
        found[node] = Outcome(rejects(node, share), share)
        if found[node].rejected:
            graph = graph.without(node)


def sequences_graph(sequences: Sequence[Sequence[Node]]) -> Graph[Node]:
    """The graph of several sequences of hypotheses, of which the first one has the whole level at first.

    The first hypothesis of the first sequence passes half of its level to the next one of its sequence and half to the
    first ones of the other sequences, in equal shares. Each further hypothesis passes its level to the next one of its
    sequence; the last one, or the only one, to the first ones of the other sequences that are open.
    """
    lines = [list(line) for line in sequences if line]
    edges: dict[Node, dict[Node, Fraction]] = {}
    for line in lines:
        others = [other[0] for other in lines if other is not line]
        for place, node in enumerate(line):
            following = line[place + 1 : place + 2]
            elsewhere = others if not following or (line is lines[0] and place == 0) else []
            parts = bool(following) + bool(elsewhere)
            edges[node] = {
                **{each: Fraction(1, parts) for each in following},
                **{each: Fraction(1, parts * len(elsewhere)) for each in elsewhere},
            }
    return Graph(
        {node: Fraction(int(node == lines[0][0])) for line in lines for node in line}, edges
    )
