"""The scheduler against a slow one that looks at every node each time."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.scheduler import ByCount, ByShare, Capacity, Placement, scheduler


@dataclass
class Slow:
    """Every node's pods in lists; each question looks at all of them."""

    nodes: int
    capacity: Capacity
    placement: Placement
    pods: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def used(self, node: int) -> tuple[int, int, int]:
        """Return pods, CPU and memory taken on a node."""
        there = self.pods.get(node, [])
        return len(there), sum(cpu for cpu, _ in there), sum(memory for _, memory in there)

    def fits(self, node: int, cpu: int, memory: int) -> bool:
        """Whether the node has room."""
        pods, cpu_used, memory_used = self.used(node)
        most = self.capacity
        return (
            pods < most.pods
            and (not most.cpu_m or cpu_used + cpu <= most.cpu_m)
            and (not most.memory_mib or memory_used + memory <= most.memory_mib)
        )

    def share(self, node: int) -> float:
        """Return the largest share of a resource that is taken."""
        used = self.used(node)
        most = (self.capacity.pods, self.capacity.cpu_m, self.capacity.memory_mib)
        return max(have / limit for have, limit in zip(used, most, strict=True) if limit)

    def place(self, cpu: int, memory: int) -> int:
        """Return the node of choice, -1 where none has room."""
        fitting = [node for node in range(self.nodes) if self.fits(node, cpu, memory)]
        if not fitting:
            return -1
        sign = 1 if self.placement == "spread" else -1
        node = min(fitting, key=lambda node: (sign * self.share(node), node))
        self.pods.setdefault(node, []).append((cpu, memory))
        return node


REQUESTS = st.tuples(st.integers(0, 6), st.integers(0, 6))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("place"), REQUESTS),
        st.tuples(st.just("leave"), st.integers(0, 10**6)),
        st.tuples(st.just("take"), st.tuples(st.integers(0, 3), REQUESTS)),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(
    nodes=st.integers(1, 4),
    capacity=st.builds(
        Capacity, st.integers(1, 4), st.sampled_from([0, 8]), st.sampled_from([0, 10])
    ),
    placement=st.sampled_from(["spread", "pack"]),
    asks=st.booleans(),
    steps=STEPS,
)
def test_it_chooses_as_one_that_looks_at_all_nodes(
    nodes: int,
    capacity: Capacity,
    placement: Placement,
    asks: bool,  # noqa: FBT001 - drawn by name
    steps: list[tuple[str, Any]],
) -> None:
    """Whatever comes and goes, the choice is that of looking at every node.

    Where no pod asks for CPU or memory (`asks` is false), all requests are 0.
    """
    fast = scheduler(nodes, capacity, placement, requests=asks)
    slow = Slow(nodes, capacity, placement)
    placed: list[tuple[int, tuple[int, int]]] = []
    for step, what in steps:
        if step == "place":
            request = what if asks else (0, 0)
            node = slow.place(*request)
            assert fast.place(*request) == node
            if node >= 0:
                placed.append((node, request))
        elif step == "take":
            node, request = what[0] % nodes, what[1] if asks else (0, 0)
            fast.take(node, *request)
            slow.pods.setdefault(node, []).append(request)
            placed.append((node, request))
        elif placed:
            node, request = placed.pop(what % len(placed))
            fast.leave(node, *request)
            slow.pods[node].remove(request)
        for node in range(nodes):
            request = (3, 3) if asks else (0, 0)
            assert fast.fits(node, *request) == slow.fits(node, *request)


@pytest.mark.parametrize(
    ("capacity", "asks", "kind"),
    [
        (Capacity(5), True, ByCount),
        (Capacity(5, cpu_m=1), False, ByCount),
        (Capacity(5, cpu_m=1), True, ByShare),
        (Capacity(5, memory_mib=1), True, ByShare),
    ],
)
def test_counting_is_enough_where_nothing_else_can_bind(
    capacity: Capacity,
    asks: bool,  # noqa: FBT001 - a parameter
    kind: type,
) -> None:
    """The heap is kept only where a pod asks for what a node has little of."""
    assert isinstance(scheduler(3, capacity, requests=asks), kind)


def test_stale_entries_do_not_pile_up() -> None:
    """After a hundred thousand changes the heap is no larger than a few entries a node."""
    nodes = ByShare(10, Capacity(50, cpu_m=100), "spread")
    for _ in range(50_000):
        nodes.leave(nodes.place(1, 0), 1, 0)

    assert len(nodes._heap) <= 4 * 10 + 1024 + 1


@pytest.mark.parametrize("asks", [True, False])
def test_ties_go_to_the_lower_number(asks: bool) -> None:  # noqa: FBT001 - a parameter
    """Spreading deals nodes out in turn; packing stays until a node is full."""
    capacity = Capacity(2, cpu_m=10)
    spread, pack = (
        scheduler(3, capacity, placement, requests=asks) for placement in ("spread", "pack")
    )

    assert [spread.place(0, 0) for _ in range(7)] == [0, 1, 2, 0, 1, 2, -1]
    assert [pack.place(0, 0) for _ in range(7)] == [0, 0, 1, 1, 2, 2, -1]


def test_the_scarcest_resource_decides() -> None:
    """A node full of memory counts as full, however idle its CPU is."""
    nodes = scheduler(2, Capacity(100, cpu_m=1000, memory_mib=1000))
    nodes.take(0, 10, 900)
    nodes.take(1, 500, 10)

    assert nodes.place(10, 10) == 1


@pytest.mark.parametrize(
    ("cpu", "memory", "lacks"),
    [(1001, 0, "cpu"), (0, 2001, "memory"), (1001, 2001, "cpu"), (1000, 2000, "")],
)
def test_what_an_empty_node_lacks(cpu: int, memory: int, lacks: str) -> None:
    """Only a request beyond the whole node lacks something; exactly all of it is fine."""
    assert Capacity(10, cpu_m=1000, memory_mib=2000).lacks(cpu, memory) == lacks


def test_no_limit_is_no_lack() -> None:
    """Zero CPU or memory in a capacity means not limited; no room for pods means max-pods."""
    assert Capacity(10).lacks(10**9, 10**9) == ""
    assert Capacity(0).lacks(0, 0) == "max-pods"


@pytest.mark.parametrize(
    ("taken", "request_", "binding"),
    [
        ([(1, 1), (1, 1)], (1, 1), "max-pods"),
        ([(9, 0)], (2, 1), "cpu"),
        ([(0, 9)], (1, 2), "memory"),
        ([(9, 9)], (2, 2), "cpu"),
    ],
)
def test_the_resource_that_binds(
    taken: list[tuple[int, int]], request_: tuple[int, int], binding: str
) -> None:
    """What most nodes are short of is named."""
    nodes = scheduler(3, Capacity(2, cpu_m=10, memory_mib=10))
    for node in range(3):
        for cpu, memory in taken:
            nodes.take(node, cpu, memory)

    assert nodes.place(*request_) == -1
    assert nodes.binding(*request_) == binding


def test_where_only_pods_count_they_bind() -> None:
    """Without requests max-pods is the only thing a node can be short of."""
    nodes = scheduler(1, Capacity(1, cpu_m=10), requests=False)

    assert (nodes.place(0, 0), nodes.place(0, 0)) == (0, -1)
    assert nodes.binding(0, 0) == "max-pods"
