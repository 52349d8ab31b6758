"""Which node a pod goes to, where the trace does not say: a small Kubernetes scheduler.

A node takes a pod whose requests fit beside those it has, up to max-pods. Spreading prefers
the node of which the smallest share is taken (kube-scheduler's LeastAllocated), packing the
one with the largest; ties go to the lower number, so that a run repeats. A heap with stale
entries makes both cheap on ten thousand nodes.
"""

import heapq
from dataclasses import dataclass
from typing import Literal

Placement = Literal["spread", "pack"]


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


class Scheduler:
    """Free capacity of equal nodes, numbered from 0."""

    def __init__(self, nodes: int, capacity: Capacity, placement: Placement = "spread") -> None:
        """Start with empty nodes."""
        self.capacity = capacity
        self._sign = 1.0 if placement == "spread" else -1.0
        self._cpu_max = capacity.cpu_m or float("inf")
        self._memory_max = capacity.memory_mib or float("inf")
        self._pods = [0] * nodes
        self._cpu = [0] * nodes
        self._memory = [0] * nodes
        self._stamps = [0] * nodes
        self._heap = [(0.0, node, 0) for node in range(nodes)]
        self._full: set[tuple[int, int]] = set()
        """Requests that no node has room for, until some pod leaves."""

    def place(self, cpu_m: int, memory_mib: int) -> int:
        """Take room on the node of choice and return its number, or -1 where none has room."""
        if self._full and (cpu_m, memory_mib) in self._full:
            return -1
        heap, stamps = self._heap, self._stamps
        aside: list[tuple[float, int, int]] = []
        found = -1
        while heap:
            entry = heap[0]
            node = entry[1]
            if entry[2] != stamps[node]:
                heapq.heappop(heap)
            elif self.fits(node, cpu_m, memory_mib):
                found = node
                break
            else:
                aside.append(heapq.heappop(heap))
        if found < 0:
            self._full.add((cpu_m, memory_mib))
        for entry in aside:
            heapq.heappush(heap, entry)
        if found >= 0:
            self.take(found, cpu_m, memory_mib)
        return found

    def fits(self, node: int, cpu_m: int, memory_mib: int) -> bool:
        """Whether a node has room for such a pod."""
        return (
            self._pods[node] < self.capacity.pods
            and self._cpu[node] + cpu_m <= self._cpu_max
            and self._memory[node] + memory_mib <= self._memory_max
        )

    def binding(self, cpu_m: int, memory_mib: int) -> str:
        """Return which resource most nodes are short of for such a pod, now."""
        short = {"max-pods": 0, "cpu": 0, "memory": 0}
        for node in range(len(self._pods)):
            if self._pods[node] >= self.capacity.pods:
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
        share = max(
            self._pods[node] / self.capacity.pods,
            self._cpu[node] / self._cpu_max,
            self._memory[node] / self._memory_max,
        )
        self._stamps[node] = stamp = self._stamps[node] + 1
        heapq.heappush(self._heap, (self._sign * share, node, stamp))
        if len(self._heap) > 4 * len(self._pods) + 1024:
            stamps = self._stamps
            self._heap = [entry for entry in self._heap if entry[2] == stamps[entry[1]]]
            heapq.heapify(self._heap)
