"""The scheduler places as its slow reference does."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.scheduler import CHUNK, ByCount, ByShare, Capacity, Placement, Scheduler, scheduler

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 30)), max_size=80)


def reference(
    pods: list[Counter[str]], capacity: Capacity, placement: Placement, cpu: int, memory: int
) -> int:
    """Return the node of choice by looking at all of them."""
    best, best_share = -1, 0.0
    for node, used in enumerate(pods):
        if (
            used["pods"] >= capacity.pods
            or used["cpu"] + cpu > (capacity.cpu_m or 10**9)
            or used["memory"] + memory > (capacity.memory_mib or 10**9)
        ):
            continue
        share = max(
            used["pods"] / capacity.pods,
            used["cpu"] / capacity.cpu_m if capacity.cpu_m else 0.0,
            used["memory"] / capacity.memory_mib if capacity.memory_mib else 0.0,
        )
        share = share if placement == "spread" else -share
        if best < 0 or share < best_share:
            best, best_share = node, share
    return best


@pytest.mark.parametrize("placement", ["spread", "pack"])
@pytest.mark.parametrize("capacity", [Capacity(5), Capacity(5, 8, 40)], ids=["pods", "requests"])
@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_placement_equals_the_reference(
    placement: Placement, capacity: Capacity, steps: list[tuple[bool, int, int]]
) -> None:
    """Whatever comes and goes, the node is the one that looking at all of them gives."""
    nodes = 4
    ours: Scheduler = scheduler(nodes, capacity, placement)
    assert isinstance(ours, ByShare if capacity.cpu_m else ByCount)
    used: list[Counter[str]] = [Counter() for _ in range(nodes)]
    running: list[tuple[int, int, int]] = []
    for comes, cpu, memory in steps:
        if comes or not running:
            wanted = reference(used, capacity, placement, cpu, memory)
            assert ours.place(cpu, memory) == wanted
            if wanted >= 0:
                used[wanted] += Counter(pods=1, cpu=cpu, memory=memory)
                running.append((wanted, cpu, memory))
        else:
            node, had_cpu, had_memory = running.pop(memory % len(running))
            ours.leave(node, had_cpu, had_memory)
            used[node] -= Counter(pods=1, cpu=had_cpu, memory=had_memory)


@pytest.mark.parametrize("placement", ["spread", "pack"])
def test_many_nodes_are_placed_as_few_are(placement: Placement) -> None:
    """Nodes beyond one integer's bits are chosen, closed, opened and added as all others."""
    rng = random.Random(5)
    ours = ByCount(2 * CHUNK, 3, placement)
    counts = [0] * (2 * CHUNK)
    closed: set[int] = set()
    for _ in range(3_000):
        node = rng.choice((0, 1, CHUNK - 1, CHUNK, CHUNK + 1, len(counts) - 1))
        step = rng.randrange(5)
        if step == 0:
            ours.close(node)
            closed.add(node)
        elif step == 1:
            ours.open(node)
            closed.discard(node)
        elif step == 2:
            assert ours.add() == len(counts)
            counts.append(0)
        elif counts[node] and step == 3:
            ours.leave(node, 0, 0)
            counts[node] -= 1
        else:
            ours.take(node, 0, 0)
            counts[node] += 1
        free = [n for n, count in enumerate(counts) if count < 3 and n not in closed]
        best = min if placement == "spread" else max
        level = best(counts[n] for n in free)
        assert ours.find(0, 0) == next(n for n in free if counts[n] == level)
