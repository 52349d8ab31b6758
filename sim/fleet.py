"""Nodes join, are cordoned and drained, leave; daemons restart.

`Fleet` knows how one node comes and goes; `sim/rollout.py` and `sim/autoscaler.py` decide when. A
node takes pods from the moment its daemon is ready until it is cordoned. Whoever evicts a pod has
its place taken at once by a new one, which runs for as long as the old one would have (a Job that
starts over would run longer); the old one keeps its address until its DEL.
"""

from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import simpy

from cni.allocator.model import AttachedEni
from sim.cloud import Account
from sim.cloud_numbers import CloudNumbers
from sim.ec2_error import Ec2Error
from sim.kubelet import Kubelet
from sim.launch import Launcher
from sim.node import SimNode
from sim.placer import Placer
from sim.scenario import ScenarioError
from sim.streams import Draws
from sim.trace import Trace
from sim.world import World

LAUNCH_AGAIN_S = 60.0
"""How long until EC2 is asked again for an instance that found no address."""

Lasting = Generator[simpy.Event, Any, None]
Place = Callable[[int], None]


class Fleet:
    """All nodes of a run, numbered in the order they came, and what can be done with them."""

    def __init__(
        self, world: World, kubelet: Kubelet, placer: Placer, place: Place, trace: Trace
    ) -> None:
        """Launch the nodes that are there at the start; ScenarioError where they find no place.

        `place` gives a new pod a node, or sets it aside.
        """
        self.world = world
        self.env = world.env
        self._kubelet = kubelet
        self._placer = placer
        self._place = place
        self._launcher = Launcher(world, kubelet)
        self._grace = Draws(world.scenario.seed, "grace")
        self._names = _Names(world, trace)
        self._cordons: Counter[int] = Counter()
        """Of each node, the cordons that are on it."""
        self._evicted: set[int] = set()
        """Pods whose place another has taken already."""
        self.nodes: list[SimNode] = []
        self.open: set[int] = set()
        """Nodes that take pods: ready, and not cordoned."""
        self.alive: list[list[int]] = [[] for _ in world.scenario.pools]
        """Of each pool, the nodes that are ready and not about to go, oldest first."""
        self.coming = [0] * len(world.scenario.pools)
        """Of each pool, the nodes that have been asked for and are not ready yet."""
        self.succeeded: set[int] = set()
        """Nodes in whose place another has been asked for already."""
        self.emptied: Callable[[SimNode], None] | None = None
        """Hears of each node that has no pod any more."""
        self.joined: list[Callable[[SimNode], None]] = []
        """All of these hear of each node that has joined and is ready."""
        self.present = 0
        """Pods at the trace's head that were there before zero, with a node or in line for one."""
        self.unserved_before: list[tuple[int, SimNode]] = []
        """Of these, those on a node that had no address for them by zero."""
        self._launch(self._names.first(), trace)

    def _launch(self, names: list[tuple[int, str]], trace: Trace) -> None:
        """Launch all instances before the first daemon takes an address.

        So pools, not nodes, go short where the subnets are small.
        """
        pools = self.world.scenario.pools
        primaries = [self._first(pools[pool].name, pool, name, names) for pool, name in names]
        instant = Account.of(CloudNumbers.instant(), self.world.vpc)
        before = self._before(trace)
        for index, (pool, name) in enumerate(names):
            node = self._launcher.node(pools[pool], name, index)
            left = self._launcher.be_up(node, primaries[index], instant, before.get(index, ()))
            self.unserved_before += [(pod, node) for pod in left]
            self.nodes.append(node)
            self.open.add(index)
            self.alive[pool].append(index)

    def _before(self, trace: Trace) -> dict[int, list[int]]:
        """Choose the nodes of the pods that are there at zero, where nodes are warm."""
        placed: dict[int, list[int]] = {}
        if not self.world.scenario.warm:
            return placed
        self.present = int(np.searchsorted(trace.arrival_s, 0.0, side="right"))
        for pod in range(self.present):
            node = int(trace.node[pod])
            if node >= 0:
                self._placer.take(pod, node)
            else:
                node = self._placer.place(pod)
            if node >= 0:
                placed.setdefault(node, []).append(pod)
        return placed

    def _first(
        self, pool_name: str, pool: int, name: str, names: list[tuple[int, str]]
    ) -> AttachedEni:
        try:
            return self._launcher.instance(self.world.scenario.pools[pool], name)
        except Ec2Error as error:
            done = names.index((pool, name))
            cidrs = ", ".join(plan.cidr for plan in self.world.scenario.subnets)
            of_pool = f" (pool {pool_name})" if len(self.world.scenario.pools) > 1 else ""
            raise ScenarioError(
                f"{done} of {len(names)} nodes fit into {cidrs}{of_pool}: {error.message}"
            ) from error

    # One node.

    def join(self, pool: int, after_s: float) -> Lasting:
        """Ask for a node now; over once it is ready."""
        self.coming[pool] += 1
        return self._join(pool, self._names.next(pool), after_s)

    def _join(self, pool: int, name: str, after_s: float) -> Lasting:
        plan = self.world.scenario.pools[pool]
        yield self.env.timeout(after_s)
        index = len(self.nodes)
        while (node := self._launcher.launched(plan, name, index)) is None:
            yield self.env.timeout(LAUNCH_AGAIN_S)
            index = len(self.nodes)
        self.nodes.append(node)
        assert self._placer.add(pool) == index, "nodes and their places are numbered alike"
        self._placer.close(index)
        self.note(node, "joining")
        yield from self._launcher.start(node)
        self.coming[pool] -= 1
        self.alive[pool].append(index)
        self.note(node, "ready")
        self._offer(node)
        for hear in self.joined:
            hear(node)

    def cordon(self, node: SimNode, event: str = "cordoned") -> None:
        """Offer a node to no more pods, until each of its cordons has been lifted."""
        self._cordons[node.index] += 1
        self._placer.close(node.index)
        self.open.discard(node.index)
        self.note(node, event)

    def uncordon(self, node: SimNode) -> None:
        """Lift one cordon; without any, offer the node again, to the pods that wait first."""
        self._cordons[node.index] -= 1
        if not self._cordons[node.index]:
            self.note(node, "uncordoned")
            self._offer(node)

    def _offer(self, node: SimNode) -> None:
        self._placer.open(node.index)
        self.open.add(node.index)
        for pod in self._placer.offer_all(node.index):
            self._kubelet.add(pod, node)

    def drain(self, node: SimNode, grace_s: float) -> Lasting:
        """Cordon a node and evict its pods, each within `grace_s`; over once all are gone."""
        self.retire(node)
        self.cordon(node, "draining")
        pods = self._kubelet.pods_on(node)
        going = [self.env.process(self._evict(pod, node, grace_s)) for pod in pods]
        if going:
            yield self.env.all_of(going)

    def retire(self, node: SimNode) -> None:
        """Count a node no more among those of its pool that stay."""
        alive = self.alive[self._placer.pool_of[node.index]]
        if node.index in alive:
            alive.remove(node.index)

    def _evict(self, pod: int, node: SimNode, grace_s: float) -> Lasting:
        self._replace(pod)
        yield self.env.timeout(grace_s * self._grace.once(str(pod)))
        self._remove(pod, node)

    def _replace(self, pod: int) -> None:
        """Let a new pod take the place of one that is evicted, once."""
        if pod in self._evicted:
            return
        self._evicted.add(pod)
        again = self._kubelet.again(pod)
        if again is not None:
            self._placer.again(pod)
            self._place(again)

    def _remove(self, pod: int, node: SimNode) -> None:
        """Delete a pod, unless it has ended by itself."""
        if self._kubelet.is_on(pod, node):
            self._kubelet.remove(pod, node)
            self._placer.leave(pod, node.index)

    def terminate(self, node: SimNode) -> None:
        """Terminate a node; pods that are still on it end, and others take their places."""
        self.retire(node)
        self._placer.close(node.index)
        self.open.discard(node.index)
        left = self._kubelet.pods_on(node)
        for pod in left:
            self._remove(pod, node)
        self._launcher.terminate(node)
        self.note(node, "gone")
        for pod in left:
            self._replace(pod)

    def restart_daemon(self, node: SimNode, down_s: float) -> Lasting:
        """Stop a node's daemon and start it again `down_s` later; over once it serves."""
        self._launcher.stop(node)
        self.note(node, "daemon away")
        yield self.env.timeout(down_s)
        if node.gone:
            return
        yield from self._launcher.restart(node)
        self.note(node, "daemon back")

    def note(self, node: SimNode, event: str) -> None:
        """Put into the record what happened to a node."""
        self.world.recorder.move(self.env.now, node.index, event)


class _Names:
    """Names of nodes: those that the trace has for the first ones, then POOL-NUMBER."""

    def __init__(self, world: World, trace: Trace) -> None:
        pools = world.scenario.pools
        self._pools = pools
        self._given = trace.node_names
        self._taken = set(trace.node_names)
        self._bases = ["node"] if len(pools) == 1 else [pool.name for pool in pools]
        self._numbers = [0] * len(pools)

    def first(self) -> list[tuple[int, str]]:
        """Name the first nodes, pool by pool; ScenarioError where the trace has more of them."""
        nodes = sum(pool.nodes for pool in self._pools)
        if len(self._given) > nodes:
            message = f"the trace names {len(self._given)} nodes, the scenario has {nodes}"
            raise ScenarioError(message)
        listed: list[tuple[int, str]] = []
        for pool, plan in enumerate(self._pools):
            for number in range(plan.nodes):
                index = len(listed)
                if index < len(self._given):
                    listed.append((pool, self._given[index]))
                    self._numbers[pool] = number + 1
                else:
                    listed.append((pool, self.next(pool)))
        return listed

    def next(self, pool: int) -> str:
        """Name one more node of a pool as no other is named."""
        while True:
            name = f"{self._bases[pool]}-{self._numbers[pool]}"
            self._numbers[pool] += 1
            if name not in self._taken:
                return name
