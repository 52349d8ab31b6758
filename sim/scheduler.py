"""Which node a pod goes to, where the trace does not say: a small Kubernetes scheduler.

A node takes a pod whose requests fit beside those it has, up to max-pods. Spreading prefers
the node of which the smallest share is taken (kube-scheduler's LeastAllocated), packing the
one with the largest; ties go to the lower number, so that a run repeats. Where no pod asks
for CPU or memory, the share is the number of pods, and `ByCount` finds the node in one step;
otherwise `ByShare` keeps a heap.
"""

import heapq
from dataclasses import dataclass
from math import isnan, nan
from typing import Literal, Protocol

Placement = Literal["spread", "pack"]

CHUNK_BITS = 11
CHUNK = 1 << CHUNK_BITS
"""Nodes whose bits stand in one integer."""
PLACES = CHUNK - 1


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one node offers to pods; 0 for CPU (millicores) or memory (MiB) means no limit."""

    pods: int
    cpu_m: int = 0
    memory_mib: int = 0

    def lacks(self, cpu_m: int, memory_mib: int) -> str:
        """Return the resource an empty node would be short of, or nothing."""
        if self.cpu_m and cpu_m > self.cpu_m:
            return "cpu"
        if self.memory_mib and memory_mib > self.memory_mib:
            return "memory"
        return "max-pods" if self.pods < 1 else ""


class Scheduler(Protocol):
    """Free capacity of equal nodes, numbered from 0 in the order in which they came."""

    def place(self, cpu_m: int, memory_mib: int) -> int:
        """Take room on the node of choice and return its number, or -1 where none has room."""

    def find(self, cpu_m: int, memory_mib: int) -> int:
        """Return the node of choice, or -1 where none has room."""

    def share(self, node: int) -> float:
        """Return the largest share of a node's capacity that is taken."""

    def pods(self, node: int) -> int:
        """Count the pods on a node."""

    def fits(self, node: int, cpu_m: int, memory_mib: int) -> bool:
        """Whether a node has room for such a pod."""

    def take(self, node: int, cpu_m: int, memory_mib: int) -> None:
        """Take room on a node, also one that the trace names and that has none."""

    def leave(self, node: int, cpu_m: int, memory_mib: int) -> None:
        """Give a pod's room back."""

    def binding(self, cpu_m: int, memory_mib: int) -> str:
        """Return which resource most nodes are short of for such a pod, now."""

    def add(self) -> int:
        """Take in one more node, empty, and return its number."""

    def close(self, node: int) -> None:
        """Offer a node to no more pods: it is cordoned, or gone."""

    def open(self, node: int) -> None:
        """Offer a node again."""


def scheduler(
    nodes: int, capacity: Capacity, placement: Placement = "spread", *, requests: bool = True
) -> Scheduler:
    """Return a scheduler for empty nodes; `requests` tells whether any pod asks for something."""
    if requests and (capacity.cpu_m or capacity.memory_mib):
        return ByShare(nodes, capacity, placement)
    return ByCount(nodes, capacity.pods, placement)


class ByCount:
    """Nodes by how many pods they have: for each count, a bit for each node.

    The bits of so many nodes stand in one integer, since changing one costs as much as copying
    it: with 100,000 nodes in one, their masks alone took 650 MB.
    """

    def __init__(self, nodes: int, pods_max: int, placement: Placement) -> None:
        """Start with empty nodes."""
        self._spreads = placement == "spread"
        self._pods_max = pods_max
        self._counts: list[int] = []
        self._bits = [1 << place for place in range(min(nodes, CHUNK))]
        self._groups = 0
        self._levels: list[list[int]] = [[] for _ in range(pods_max + 2)]
        self._sizes = [0] * (pods_max + 2)
        """How many nodes have so many pods and are open."""
        self._hint = 0
        """No node with room comes before this count, in the order of preference."""
        self._closed: set[int] = set()
        for _ in range(nodes):
            self.add()

    def place(self, cpu_m: int, memory_mib: int) -> int:
        """Take room on the node of choice and return its number, or -1 where none has room."""
        node = self.find(cpu_m, memory_mib)
        if node >= 0:
            level, group, bit = self._counts[node], node >> CHUNK_BITS, self._bits[node & PLACES]
            self._levels[level][group] ^= bit
            self._sizes[level] -= 1
            level += 1
            self._levels[level][group] |= bit
            self._sizes[level] += 1
            self._counts[node] = level
        return node

    def find(self, cpu_m: int, memory_mib: int) -> int:  # noqa: ARG002 - nobody asks here
        """Return the node of choice, or -1 where none has room."""
        sizes = self._sizes
        if self._spreads:
            level, last = self._hint, self._pods_max
            while level < last and not sizes[level]:
                level += 1
            self._hint = level
            if level >= last:
                return -1
        else:
            level = self._pods_max - 1
            while level >= 0 and not sizes[level]:
                level -= 1
            if level < 0:
                return -1
        group = 0
        masks = self._levels[level]
        while not (mask := masks[group]):
            group += 1
        return (group << CHUNK_BITS) + (mask & -mask).bit_length() - 1

    def share(self, node: int) -> float:
        """Return the share of a node's pods that is taken."""
        return self._counts[node] / self._pods_max

    def pods(self, node: int) -> int:
        """Count the pods on a node."""
        return self._counts[node]

    def add(self) -> int:
        """Take in one more node, empty, and return its number."""
        node = len(self._counts)
        self._counts.append(0)
        if node >> CHUNK_BITS == self._groups:
            self._groups += 1
            for masks in self._levels:
                masks.append(0)
        if node >= len(self._bits) and node < CHUNK:
            self._bits.append(1 << node)
        self._put(node, 0)
        self._hint = 0
        return node

    def close(self, node: int) -> None:
        """Offer a node to no more pods: it is cordoned, or gone."""
        if node not in self._closed:
            self._drop(node, self._counts[node])
            self._closed.add(node)

    def open(self, node: int) -> None:
        """Offer a node again."""
        if node in self._closed:
            self._closed.remove(node)
            self._put(node, self._counts[node])
            self._hint = min(self._hint, self._counts[node])

    def fits(self, node: int, cpu_m: int, memory_mib: int) -> bool:  # noqa: ARG002 - as above
        """Whether a node has room for one more pod."""
        return self._counts[node] < self._pods_max and node not in self._closed

    def take(self, node: int, cpu_m: int, memory_mib: int) -> None:  # noqa: ARG002 - as above
        """Take room on a node, also one that the trace names and that has none."""
        self._move(node, self._counts[node] + 1)

    def leave(self, node: int, cpu_m: int, memory_mib: int) -> None:  # noqa: ARG002 - as above
        """Give a pod's room back."""
        self._move(node, self._counts[node] - 1)

    def _move(self, node: int, count: int) -> None:
        if count + 1 >= len(self._levels):
            self._levels.append([0] * self._groups)
            self._sizes.append(0)
        before, self._counts[node] = self._counts[node], count
        if node in self._closed:
            return
        group, bit = node >> CHUNK_BITS, self._bits[node & PLACES]
        self._levels[before][group] ^= bit
        self._sizes[before] -= 1
        self._levels[count][group] |= bit
        self._sizes[count] += 1
        self._hint = min(self._hint, count)

    def _put(self, node: int, level: int) -> None:
        self._levels[level][node >> CHUNK_BITS] |= self._bits[node & PLACES]
        self._sizes[level] += 1

    def _drop(self, node: int, level: int) -> None:
        self._levels[level][node >> CHUNK_BITS] ^= self._bits[node & PLACES]
        self._sizes[level] -= 1

    def binding(self, cpu_m: int, memory_mib: int) -> str:  # noqa: ARG002 - as above
        """Return what nodes are short of: only max-pods counts here."""
        return "max-pods"


class ByShare:
    """Nodes by the largest share taken of their pods, CPU or memory, in a heap.

    An entry is stale once its share is no longer the node's; stale ones are dropped when they
    come up.
    """

    def __init__(self, nodes: int, capacity: Capacity, placement: Placement) -> None:
        """Start with empty nodes."""
        self._capacity = capacity
        self._sign = 1.0 if placement == "spread" else -1.0
        self._cpu_max = capacity.cpu_m or float("inf")
        self._memory_max = capacity.memory_mib or float("inf")
        self._pods = [0] * nodes
        self._cpu = [0] * nodes
        self._memory = [0] * nodes
        self._shares = [0.0] * nodes
        self._heap = [(0.0, node) for node in range(nodes)]
        self._full: set[tuple[int, int]] = set()
        """Requests that no node has room for, until a node that fits them has."""
        self._closed: set[int] = set()

    def place(self, cpu_m: int, memory_mib: int) -> int:
        """Take room on the node of choice and return its number, or -1 where none has room."""
        found = self.find(cpu_m, memory_mib)
        if found >= 0:
            self.take(found, cpu_m, memory_mib)
        return found

    def find(self, cpu_m: int, memory_mib: int) -> int:
        """Return the node of choice, or -1 where none has room."""
        if self._full and (cpu_m, memory_mib) in self._full:
            return -1
        heap, shares = self._heap, self._shares
        aside: list[tuple[float, int]] = []
        found = -1
        while heap:
            share, node = entry = heapq.heappop(heap)
            if share != shares[node] or (aside and entry == aside[-1]):
                continue
            aside.append(entry)
            if self.fits(node, cpu_m, memory_mib):
                found = node
                break
        if found < 0:
            self._full.add((cpu_m, memory_mib))
        for entry in aside:
            heapq.heappush(heap, entry)
        return found

    def share(self, node: int) -> float:
        """Return the largest share of a node's capacity that is taken."""
        return abs(self._shares[node])

    def pods(self, node: int) -> int:
        """Count the pods on a node."""
        return self._pods[node]

    def add(self) -> int:
        """Take in one more node, empty, and return its number."""
        node = len(self._pods)
        for column in (self._pods, self._cpu, self._memory):
            column.append(0)
        self._shares.append(0.0)
        self._full.clear()
        self._moved(node)
        return node

    def close(self, node: int) -> None:
        """Offer a node to no more pods: it is cordoned, or gone."""
        self._closed.add(node)
        self._shares[node] = nan  # No entry of the heap equals it: all of this node's are stale.

    def open(self, node: int) -> None:
        """Offer a node again."""
        if node in self._closed:
            self._closed.remove(node)
            self._full.clear()
            self._moved(node)

    def fits(self, node: int, cpu_m: int, memory_mib: int) -> bool:
        """Whether a node has room for such a pod."""
        return (
            node not in self._closed
            and self._pods[node] < self._capacity.pods
            and self._cpu[node] + cpu_m <= self._cpu_max
            and self._memory[node] + memory_mib <= self._memory_max
        )

    def binding(self, cpu_m: int, memory_mib: int) -> str:
        """Return which resource most nodes are short of for such a pod, now."""
        short = {"max-pods": 0, "cpu": 0, "memory": 0}
        for node in range(len(self._pods)):
            if self._pods[node] >= self._capacity.pods:
                short["max-pods"] += 1
            elif self._cpu[node] + cpu_m > self._cpu_max:
                short["cpu"] += 1
            elif self._memory[node] + memory_mib > self._memory_max:
                short["memory"] += 1
        return max(short, key=lambda resource: short[resource])

    def take(self, node: int, cpu_m: int, memory_mib: int) -> None:
        """Take room on a node, also one that the trace names and that has none."""
        self._pods[node] += 1
        self._cpu[node] += cpu_m
        self._memory[node] += memory_mib
        self._moved(node)

    def leave(self, node: int, cpu_m: int, memory_mib: int) -> None:
        """Give a pod's room back."""
        self._pods[node] -= 1
        self._cpu[node] -= cpu_m
        self._memory[node] -= memory_mib
        if self._full:
            # Only this node has more room than before: what does not fit it fits none.
            self._full = {asked for asked in self._full if not self.fits(node, *asked)}
        self._moved(node)

    def _moved(self, node: int) -> None:
        share = self._pods[node] / self._capacity.pods
        cpu = self._cpu[node] / self._cpu_max
        memory = self._memory[node] / self._memory_max
        share = max(share, cpu)
        share = max(share, memory)
        if node in self._closed:
            return
        self._shares[node] = share = self._sign * share
        heapq.heappush(self._heap, (share, node))
        if len(self._heap) > 4 * len(self._pods) + 1024:
            self._heap = [
                (share, node) for node, share in enumerate(self._shares) if not isnan(share)
            ]
            heapq.heapify(self._heap)
