"""Which pool, and which of its nodes, a pod goes to; and the pods that wait for room.

A pool that names the pods it takes gets those and no others; all other pods share the pools that
name none. Among the pools a pod may go to, the one whose node of choice is least full takes it
(with packing: fullest), the earlier one where two are alike. Pods that fit no node wait in line,
oldest first, until a pod leaves or a node joins.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from heapq import merge
from itertools import islice

from sim.node_pool import NodePool, ScenarioError
from sim.scenario import Scenario
from sim.scheduler import Scheduler, scheduler
from sim.trace import Trace

PENDING_LOOKED_AT = 64
"""Pods without a node that are offered the room of one that left, oldest first, of those that
may go to its pool."""

_EVERYWHERE = 0
"""The way of pods that no pool claims: index into `Placer.ways`."""


class Placer:
    """Places pods, numbered as in the trace, on nodes, numbered in the order they came."""

    def __init__(
        self, scenario: Scenario, trace: Trace, give_up: Callable[[int, str], None]
    ) -> None:
        """Start with the nodes that the pools begin with, empty, pool after pool.

        `give_up` hears of a pod that fits no empty node, and of the resource it lacks. Raises
        ScenarioError where pools choose pods by name and the trace has no names.
        """
        self._give_up = give_up
        ignored = scenario.ignore_requests
        self.cpu: list[int] = [0] * len(trace) if ignored else trace.cpu_m.tolist()
        self.memory: list[int] = [0] * len(trace) if ignored else trace.memory_mib.tolist()
        requests = not ignored and bool(trace.cpu_m.any() or trace.memory_mib.any())
        self.in_line = 0
        """How many pods wait for room."""
        self.hungry: Callable[[int], None] | None = None
        """Hears of each pod that found no room."""
        self._pools = scenario.pools
        self._spreads = scenario.placement == "spread"
        self._schedulers: list[Scheduler] = [
            scheduler(pool.nodes, pool.capacity, scenario.placement, requests=requests)
            for pool in scenario.pools
        ]
        self._only = self._schedulers[0] if len(self._schedulers) == 1 else None
        """The scheduler of the only pool, which numbers nodes as everybody does: the fast way."""
        self.pool_of: list[int] = [
            number for number, pool in enumerate(scenario.pools) for _ in range(pool.nodes)
        ]
        """The pool of each node."""
        self._local = [local for pool in scenario.pools for local in range(pool.nodes)]
        self._global = _numbered(scenario.pools)
        self.ways, self.way = _ways(scenario.pools, trace)
        self._lines: list[deque[tuple[int, int]]] = [deque() for _ in self.ways]
        """Of each way, the pods that wait for room: (ticket, pod), oldest first."""
        self._tickets = 0
        self._lines_to = [
            [line for line, way in zip(self._lines, self.ways, strict=True) if pool in way]
            for pool in range(len(scenario.pools))
        ]
        """Of each pool, the lines of pods that may go to it."""

    # Nodes.

    def add(self, pool: int) -> int:
        """Take in one more node of a pool, empty, and return its number."""
        node = len(self.pool_of)
        self.pool_of.append(pool)
        self._local.append(self._schedulers[pool].add())
        self._global[pool].append(node)
        return node

    def close(self, node: int) -> None:
        """Offer a node to no more pods."""
        self._schedulers[self.pool_of[node]].close(self._local[node])

    def open(self, node: int) -> None:
        """Offer a node again."""
        self._schedulers[self.pool_of[node]].open(self._local[node])

    def pods(self, node: int) -> int:
        """Count the pods on a node."""
        return self._schedulers[self.pool_of[node]].pods(self._local[node])

    # Pods.

    def place(self, pod: int) -> int:
        """Choose a node and take room there; -1 where the pod waits, or will never fit."""
        only = self._only
        cpu, memory = self.cpu[pod], self.memory[pod]
        node = self._find(pod) if only is None else only.place(cpu, memory)
        if node < 0:
            lacking = self.lacks(pod)
            if lacking:
                self._give_up(pod, lacking)
            else:
                self._wait(pod)
                if self.hungry is not None:
                    self.hungry(pod)
        return node

    def _wait(self, pod: int) -> None:
        self._lines[self.way[pod]].append((self._tickets, pod))
        self._tickets += 1
        self.in_line += 1

    def _find(self, pod: int) -> int:
        cpu, memory = self.cpu[pod], self.memory[pod]
        best, chosen, found = 0.0, -1, -1
        for pool in self.ways[self.way[pod]]:
            local = self._schedulers[pool].find(cpu, memory)
            if local < 0:
                continue
            share = self._schedulers[pool].share(local)
            if chosen < 0 or (share < best if self._spreads else share > best):
                best, chosen, found = share, pool, local
        if chosen < 0:
            return -1
        self._schedulers[chosen].take(found, cpu, memory)
        return self._global[chosen][found]

    def lacks(self, pod: int) -> str:
        """Return the resource an empty node of every pool would be short of, or nothing."""
        lacking = [
            self._pools[pool].capacity.lacks(self.cpu[pod], self.memory[pod])
            for pool in self.ways[self.way[pod]]
        ]
        return lacking[0] if all(lacking) else ""

    def take(self, pod: int, node: int) -> None:
        """Take room on a node that the trace names."""
        pool = self.pool_of[node]
        self._schedulers[pool].take(self._local[node], self.cpu[pod], self.memory[pod])

    def leave(self, pod: int, node: int) -> None:
        """Give a pod's room back."""
        only = self._only
        if only is not None:
            only.leave(node, self.cpu[pod], self.memory[pod])
            return
        pool = self.pool_of[node]
        self._schedulers[pool].leave(self._local[node], self.cpu[pod], self.memory[pod])

    def again(self, pod: int) -> None:
        """Take in one more pod, which asks for what an earlier one asked for."""
        for column in (self.cpu, self.memory, self.way):
            column.append(column[pod])

    def line(self) -> Iterator[int]:
        """Yield the pods that wait for room, oldest first."""
        return (pod for _, pod in merge(*self._lines))

    def ways_in_line(self) -> list[int]:
        """Return the ways (indices into `ways`) on which pods wait for room."""
        return [number for number, line in enumerate(self._lines) if line]

    def offer(self, node: int) -> list[int]:
        """Give the room on one node to pods that wait, oldest first; return those placed."""
        return self._offer(node, PENDING_LOOKED_AT)

    def offer_all(self, node: int) -> list[int]:
        """Give the room on a node that has just joined to all pods that wait, oldest first."""
        return self._offer(node, None)

    def _offer(self, node: int, most: int | None) -> list[int]:
        """Look at so many pods that may go to the node's pool, or at all of them."""
        pool = self.pool_of[node]
        scheduler, local = self._schedulers[pool], self._local[node]
        placed: list[int] = []
        for _, pod in islice(merge(*self._lines_to[pool]), most):
            if not scheduler.fits(local, 0, 0):
                break
            cpu, memory = self.cpu[pod], self.memory[pod]
            if scheduler.fits(local, cpu, memory):
                scheduler.take(local, cpu, memory)
                placed.append(pod)
        self._drop(placed)
        return placed

    def _drop(self, placed: Iterable[int]) -> None:
        """Take pods out of their lines; they stand near the front."""
        gone: dict[int, set[int]] = {}
        for pod in placed:
            gone.setdefault(self.way[pod], set()).add(pod)
            self.in_line -= 1
        for way, pods in gone.items():
            line, kept = self._lines[way], []
            while pods:
                ticket, pod = line.popleft()
                if pod in pods:
                    pods.remove(pod)
                else:
                    kept.append((ticket, pod))
            line.extendleft(reversed(kept))

    def binding(self, pod: int) -> str:
        """Return which resource most nodes are short of for such a pod, now."""
        pool = self.ways[self.way[pod]][0]
        return self._schedulers[pool].binding(self.cpu[pod], self.memory[pod])


def _numbered(pools: Sequence[NodePool]) -> list[list[int]]:
    """Return the numbers of each pool's nodes, pool after pool."""
    numbered: list[list[int]] = []
    first = 0
    for pool in pools:
        numbered.append(list(range(first, first + pool.nodes)))
        first += pool.nodes
    return numbered


def _ways(pools: Sequence[NodePool], trace: Trace) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return which pools a pod may go to, as a list of choices, and each pod's choice in it."""
    others = tuple(number for number, pool in enumerate(pools) if not pool.takes)
    ways: list[tuple[int, ...]] = [others]
    claiming = [number for number, pool in enumerate(pools) if pool.takes]
    if not claiming:
        return ways, [_EVERYWHERE] * len(trace)
    if trace.names is None:
        name = pools[claiming[0]].name
        raise ScenarioError(f"pool {name} takes pods by name, and the trace has no names")
    number_of: dict[tuple[int, ...], int] = {others: _EVERYWHERE}
    found: list[int] = []
    for name in trace.names:
        claimed = tuple(
            number
            for number in claiming
            if any(fnmatchcase(name, pattern) for pattern in pools[number].takes)
        )
        way = claimed or others
        if not way:
            raise ScenarioError(
                f"no pool takes pod {name}: give one pool no `takes`, or a pattern that fits it"
            )
        if way not in number_of:
            number_of[way] = len(ways)
            ways.append(way)
        found.append(number_of[way])
    return ways, found
