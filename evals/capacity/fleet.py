"""Nodes that share out room among the steps that ask for it, as Ray does.

Ray keeps one queue for each shape of an ask and serves each in order, so that a step that finds no room holds up those
of its own shape alone. Among nodes with room the one with most processors free is taken.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from assistant_builder.jobs.room import Ask, Node

if TYPE_CHECKING:
    import simpy


class Fleet:
    """The nodes, and who waits for them.

    Args:
        env: The simulation.
        nodes: The nodes.

    Attributes:
        used: Of each hold on a node that has ended: processors, and from when to when.
        losses: Nodes that were lost so far.
    """

    def __init__(self, env: simpy.Environment, nodes: Sequence[Node]) -> None:
        self._env = env
        self._nodes = tuple(nodes)
        self._free = list(nodes)
        self._up = [True] * len(nodes)
        self._held: list[dict[simpy.Process, tuple[Ask, float]]] = [{} for _ in nodes]
        self._waiting: dict[Ask, deque[tuple[int, simpy.Event, simpy.Process]]] = {}
        self._tickets = itertools.count()
        self.used: list[tuple[float, float, float]] = []
        self.losses = 0

    def room(self, ask: Ask) -> simpy.Event:
        """Ask for room; the event comes with the node. Where that is lost, the process that asked is interrupted.

        Raises:
            ValueError: No node has that much.
        """
        if not any(ask.fits(node) for node in self._nodes):
            raise ValueError(f"no node has room for {ask}")
        event, process = self._env.event(), self._env.active_process
        assert process is not None
        self._waiting.setdefault(ask, deque()).append((next(self._tickets), event, process))
        self._serve()
        return event

    def give_back(self, node: int) -> None:
        """Give back what the running process holds of a node."""
        process = self._env.active_process
        assert process is not None
        self._release(node, process)
        self._serve()

    def fail(self, node: int, loss_seconds: Iterable[float], back_seconds: float) -> Generator[simpy.Event, Any, None]:
        """Lose a node and bring it back, time and again."""
        for seconds in loss_seconds:
            yield self._env.timeout(seconds)
            self.losses += 1
            self._up[node] = False
            for process in tuple(self._held[node]):
                self._release(node, process)
                process.interrupt("node lost")
            yield self._env.timeout(back_seconds)
            self._up[node] = True
            self._serve()

    def _serve(self) -> None:
        """Give room to who has waited longest, then to the next, shape by shape until none is left that fits."""
        heads = {ask: queue for ask, queue in self._waiting.items() if queue}
        while heads:
            ask = min(heads, key=lambda each: heads[each][0][0])
            node = self._place(ask)
            if node is None:
                del heads[ask]
                continue
            _, event, process = heads[ask].popleft()
            self._held[node][process] = (ask, self._env.now)
            self._free[node] = _less(self._free[node], ask)
            event.succeed(node)
            if not heads[ask]:
                del heads[ask]

    def _place(self, ask: Ask) -> int | None:
        fitting = (node for node, free in enumerate(self._free) if self._up[node] and ask.fits(free))
        return max(fitting, key=lambda node: self._free[node].cpus, default=None)

    def _release(self, node: int, process: simpy.Process) -> None:
        ask, since = self._held[node].pop(process)
        self._free[node] = _less(self._free[node], Ask(-ask.cpus, -ask.gpus, -ask.memory_bytes))
        self.used.append((ask.cpus, since, self._env.now))


def _less(node: Node, ask: Ask) -> Node:
    return Node(node.name, node.cpus - ask.cpus, node.gpus - ask.gpus, node.memory_bytes - ask.memory_bytes)
