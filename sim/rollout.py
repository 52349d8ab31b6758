"""What is planned for the nodes of a pool: recycling, spot losses, cordons, daemon restarts."""

from collections.abc import Generator, Iterator, Sequence
from math import log
from typing import Any

import simpy

from sim.fleet import Fleet
from sim.node import SimNode
from sim.node_pool import Cordon, DaemonRestart, Recycling, SpotLoss
from sim.streams import Draws

Lasting = Generator[simpy.Event, Any, None]

RESTART_MOST_S = 600.0
"""How long a rollout waits for a batch of daemons: one whose node is gone never serves again."""


def begin(fleet: Fleet) -> None:
    """Let everything begin that the scenario plans."""
    for pool, plan in enumerate(fleet.world.scenario.pools):
        changes = plan.changes
        if changes.recycling is not None:
            fleet.env.process(_recycle(fleet, pool, changes.recycling))
        if changes.spot is not None:
            _Spot(fleet, pool, changes.spot)
        for cordon in changes.cordons:
            fleet.env.process(_cordon(fleet, pool, cordon))
        for restart in changes.restarts:
            fleet.env.process(_restart(fleet, pool, restart))


def _times(env: simpy.Environment, at_s: float, every_s: float) -> Iterator[simpy.Event]:
    """Yield events to wait for: one at `at_s`, and one each `every_s` after it."""
    yield env.timeout(max(at_s - env.now, 0.0))
    while every_s:
        at_s += every_s
        yield env.timeout(max(at_s - env.now, 0.0))


def _batches(fleet: Fleet, pool: int, size: int) -> Iterator[list[SimNode]]:
    """Yield the nodes that a pool has now in batches, without those that went meanwhile."""
    nodes = [fleet.nodes[index] for index in fleet.alive[pool]]
    for first in range(0, len(nodes), size):
        batch = [node for node in nodes[first : first + size] if not node.gone]
        if batch:
            yield batch


def _all(env: simpy.Environment, works: Sequence[Generator[simpy.Event, Any, Any]]) -> simpy.Event:
    return env.all_of([env.process(work) for work in works])


def _recycle(fleet: Fleet, pool: int, plan: Recycling) -> Lasting:
    env = fleet.env
    for moment in _times(env, plan.at_s, plan.every_s):
        yield moment
        for batch in _batches(fleet, pool, plan.batch):
            # What is being lost, or has been since, is replaced and drained by whoever loses it.
            old = _staying(fleet, pool, batch)
            fleet.succeeded.update(node.index for node in old)
            yield _all(env, [fleet.join(pool, plan.join_s) for _ in old])
            old = _staying(fleet, pool, old)
            yield _all(env, [fleet.drain(node, plan.grace_s) for node in old])
            for node in old:
                fleet.terminate(node)


def _staying(fleet: Fleet, pool: int, nodes: Sequence[SimNode]) -> list[SimNode]:
    """Leave out nodes that are gone, or about to go."""
    return [node for node in nodes if node.index in fleet.alive[pool]]


class _Spot:
    """EC2 takes nodes back after a time that each draws when it is ready, whoever asked for it."""

    def __init__(self, fleet: Fleet, pool: int, plan: SpotLoss) -> None:
        self._fleet = fleet
        self._pool = pool
        self._plan = plan
        self._lives = Draws(fleet.world.scenario.seed, "spot")
        if plan.per_node_hour > 0:
            fleet.joined.append(self._expect)
            for index in fleet.alive[pool]:
                self._expect(fleet.nodes[index])

    def _expect(self, node: SimNode) -> None:
        if node.index in self._fleet.alive[self._pool]:
            self._fleet.env.process(self._lose(node))

    def _lose(self, node: SimNode) -> Lasting:
        fleet, plan = self._fleet, self._plan
        hours = -log(self._lives.once(node.name)) / plan.per_node_hour
        yield fleet.env.timeout(3600.0 * hours)
        if node.gone or node.index not in fleet.alive[self._pool]:
            return
        if node.index not in fleet.succeeded:
            fleet.succeeded.add(node.index)
            fleet.env.process(fleet.join(self._pool, plan.join_s))
        if plan.notice_s:
            fleet.env.process(fleet.drain(node, min(plan.grace_s, plan.notice_s)))
            yield fleet.env.timeout(plan.notice_s)
        if not node.gone:
            fleet.terminate(node)


def _cordon(fleet: Fleet, pool: int, plan: Cordon) -> Lasting:
    yield fleet.env.timeout(plan.at_s)
    nodes = [fleet.nodes[index] for index in fleet.alive[pool][: plan.nodes]]
    for node in nodes:
        fleet.cordon(node)
    if plan.for_s:
        yield fleet.env.timeout(plan.for_s)
        for node in nodes:
            if not node.gone and node.index in fleet.alive[pool]:
                fleet.uncordon(node)


def _restart(fleet: Fleet, pool: int, plan: DaemonRestart) -> Lasting:
    env = fleet.env
    for moment in _times(env, plan.at_s, plan.every_s):
        yield moment
        for batch in _batches(fleet, pool, plan.batch):
            back = _all(
                env, [fleet.restart_daemon(node, plan.down_s) for node in batch if not node.away]
            )
            yield back | env.timeout(plan.down_s + RESTART_MOST_S)
