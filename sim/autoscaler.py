"""Nodes for pods that have none, and no nodes for nobody: one autoscaler for all pools.

It gathers pods without a node for a while, counts what nodes that are on their way have room for,
and asks for as many more as the rest needs, packed first-fit, in the first pool a pod may go to
that can grow. A node that has stood empty for its pool's time is terminated. It does not move pods
together; Karpenter's consolidation would.
"""

from collections.abc import Generator, Iterable
from typing import Any

import simpy

from sim.fleet import Fleet
from sim.node import SimNode
from sim.node_pool import Autoscaling
from sim.placer import Placer
from sim.scheduler import Capacity


class Room:
    """What is left of a node that is on its way."""

    __slots__ = ("_capacity", "_cpu", "_memory", "_pods", "pool")

    def __init__(self, pool: int, capacity: Capacity) -> None:
        """Start with an empty node."""
        self.pool = pool
        self._capacity = capacity
        self._pods = self._cpu = self._memory = 0

    @property
    def full(self) -> bool:
        """Whether it has as many pods as it may have."""
        return self._pods >= self._capacity.pods

    def takes(self, cpu_m: int, memory_mib: int) -> bool:
        """Take a pod in where it fits; whether it did."""
        capacity = self._capacity
        fits = (
            not self.full
            and (not capacity.cpu_m or self._cpu + cpu_m <= capacity.cpu_m)
            and (not capacity.memory_mib or self._memory + memory_mib <= capacity.memory_mib)
        )
        if fits:
            self._pods += 1
            self._cpu += cpu_m
            self._memory += memory_mib
        return fits


class Autoscaler:
    """Watches pods that wait and nodes that stand empty."""

    def __init__(self, fleet: Fleet, placer: Placer) -> None:
        """Watch from now on, the nodes that are there among them."""
        self._fleet = fleet
        self._env = fleet.env
        self._placer = placer
        self._pools = fleet.world.scenario.pools
        self._looks = False
        self._empty_since: dict[int, float] = {}
        placer.hungry = self._hungry
        fleet.emptied = self._emptied
        fleet.joined.append(self._joined)
        for node in fleet.nodes:
            self._emptied(node)
        self._look_soon(placer.ways_in_line())

    def _plan(self, pool: int) -> Autoscaling | None:
        return self._pools[pool].changes.autoscaling

    # Growing.

    def _hungry(self, pod: int) -> None:
        """Hear of a pod that found no room."""
        self._look_soon((self._placer.way[pod],))

    def _look_soon(self, ways: Iterable[int]) -> None:
        """Look at the pods that wait once the batch window of a pool they may go to is over."""
        if self._looks:
            return
        windows = (self._plan(pool) for way in ways for pool in self._placer.ways[way])
        batch_s = min((plan.batch_s for plan in windows if plan is not None), default=None)
        if batch_s is not None:
            self._looks = True
            self._env.timeout(batch_s).callbacks.append(self._look)

    def _look(self, _event: simpy.Event) -> None:
        """Ask for nodes, where those on their way have no room for all pods that wait."""
        self._looks = False
        placer = self._placer
        rooms = [
            Room(pool, self._pools[pool].capacity)
            for pool, coming in enumerate(self._fleet.coming)
            for _ in range(coming)
        ]
        hopeless: set[tuple[int, int, int]] = set()
        """What has found no room will find none now: rooms only fill."""
        for pod in placer.line():
            asked = placer.way[pod], placer.cpu[pod], placer.memory[pod]
            if asked in hopeless:
                continue
            room = self._room(rooms, *asked)
            if room is None:
                hopeless.add(asked)
            elif room.full:
                rooms.remove(room)

    def _room(self, rooms: list[Room], way: int, cpu_m: int, memory_mib: int) -> Room | None:
        """Find room for a pod on nodes that are on their way, or ask for one more."""
        pools = self._placer.ways[way]
        for room in rooms:
            if room.pool in pools and room.takes(cpu_m, memory_mib):
                return room
        for pool in pools:
            room = Room(pool, self._pools[pool].capacity)
            if self._can_grow(pool) and room.takes(cpu_m, memory_mib):
                rooms.append(room)
                self._grow(pool)
                return room
        return None

    def _can_grow(self, pool: int) -> bool:
        plan = self._plan(pool)
        there = len(self._fleet.alive[pool]) + self._fleet.coming[pool]
        return plan is not None and there < plan.most

    def _grow(self, pool: int) -> None:
        plan = self._plan(pool)
        assert plan is not None
        self._env.process(self._fleet.join(pool, plan.join_s))

    def _joined(self, node: SimNode) -> None:
        """Hear of a node that is ready: pods that came on its way have not been counted."""
        self._emptied(node)
        self._look_soon(self._placer.ways_in_line())

    # Shrinking.

    def _emptied(self, node: SimNode) -> None:
        """Look at an empty node again when its time is over."""
        plan = self._plan(self._placer.pool_of[node.index])
        if plan is not None and not self._placer.pods(node.index):
            self._env.process(self._wait_for_end(node, plan))

    def _wait_for_end(self, node: SimNode, plan: Autoscaling) -> Generator[simpy.Event, Any, None]:
        self._empty_since[node.index] = since = self._env.now
        yield self._env.timeout(plan.empty_s)
        alive = self._fleet.alive[self._placer.pool_of[node.index]]
        # A pod that came and went in between began the time anew.
        unused = self._empty_since[node.index] == since and not self._placer.pods(node.index)
        if unused and node.index in alive and len(alive) > plan.least:
            self._fleet.terminate(node)
