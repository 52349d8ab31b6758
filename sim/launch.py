"""From a pool to a node: which subnet it is launched in, and the life of its daemon.

Launching is EC2's RunInstances: the instance comes with its primary ENI. Then the daemon starts:
long before the trace's zero on warm nodes, at zero on cold ones, with the sequence of
`sim/start_up.py` on nodes that join and where a daemon is restarted.
"""

from collections.abc import Callable, Generator, Sequence
from math import inf
from typing import Any

import simpy

from cni.allocator.model import AttachedEni, Instant
from cni.cloud.calls import MUTATING
from sim.cloud import Account, CloudModel
from sim.ec2_error import Ec2Error
from sim.faults import faults_of
from sim.kubelet import Kubelet, sandbox_of
from sim.metadata import attached_eni
from sim.node import SimNode
from sim.node_pool import NodePool
from sim.start_up import start_up
from sim.streams import Draws, stream
from sim.subnet import Subnet
from sim.world import World

FIRST_REFILL_S = 60.0
"""A node is ready after its first refill, or after this long (cni/daemon/agent.py)."""


class Launcher:
    """Launches instances and starts, stops and restarts their daemons."""

    def __init__(self, world: World, kubelet: Kubelet) -> None:
        """Deal nodes to zones, or to subnets where none names its zone, from the first on."""
        self._world = world
        self._kubelet = kubelet
        self._dealt = 0
        self._dealt_by_pool: dict[str, int] = {}
        self._lives: dict[int, int] = {}

    # Instances.

    def instance(self, pool: NodePool, name: str) -> AttachedEni:
        """Launch an instance and return its primary ENI; Ec2Error where no address is free."""
        world = self._world
        subnet = self._subnet(pool)
        launched = world.vpc.launch_instance(name, pool.shape, subnet.subnet_id, world.env.now)
        self._dealt += 1
        self._dealt_by_pool[pool.name] = self._dealt_by_pool.get(pool.name, 0) + 1
        return AttachedEni(launched.eni_id, 0, launched.primary_ip, ())

    def _subnet(self, pool: NodePool) -> Subnet:
        """Choose the subnet: of the zone whose turn it is, the one with most free addresses.

        A subnet without an address for an ENI is passed over (free ones may be reserved for
        prefixes), and so is a zone without any other, as an Auto Scaling group does it.
        """
        subnets = self._world.vpc.subnets
        zones = pool.zones or tuple(dict.fromkeys(one.zone for one in subnets if one.zone))
        if zones:
            turn = self._dealt_by_pool.get(pool.name, 0)
            choices = [[one for one in subnets if one.zone == zone] for zone in zones]
        else:
            turn = self._dealt
            choices = [[one] for one in subnets]
        first = turn % len(choices)
        for choice in (*choices[first:], *choices[:first]):
            open_ones = [subnet for subnet in choice if subnet.free_singles]
            if open_ones:
                return max(open_ones, key=lambda subnet: subnet.free)
        return choices[first][0]

    def node(self, pool: NodePool, name: str, index: int) -> SimNode:
        """Stand for an instance; its daemon has not started yet."""
        world = self._world
        return SimNode(
            world.env,
            index,
            name,
            pool,
            self._cloud(name, index, ""),
            world.recorder,
            world.auditor,
            self._kubelet.served_in_line,
        )

    def _cloud(self, name: str, index: int, life: str) -> CloudModel:
        world = self._world
        seed = world.scenario.seed
        names = ("node", name, life) if life else ("node", name)
        return CloudModel(
            world.env,
            world.account,
            name,
            Draws(seed, *names),
            on_call=self._call_noter(index),
            faults=faults_of(world.scenario.faults, Draws(seed, "faults", name, life)),
        )

    def _call_noter(self, index: int) -> Callable[[str, float, float, str], None]:
        record, note_subnets = self._world.recorder.call, self._world.note_subnets

        def note(api: str, started: float, ended: float, code: str) -> None:
            record(index, api, started, ended, code)
            # A call may fail after its effect.
            if api in MUTATING:
                note_subnets()

        return note

    # Daemons.

    def be_up(
        self, node: SimNode, primary: AttachedEni, instant: Account, pods: Sequence[int]
    ) -> list[int]:
        """Let a node's daemon be up when the trace begins: warm for long, or cold and just so.

        A warm node has had `pods` for a while; those are returned that it has no address for.
        """
        world = self._world
        seed, name = world.scenario.seed, node.name
        draw = stream(seed, "daemon", name)
        seed_of_node = draw.getrandbits(48)
        if world.scenario.warm:
            at_once = CloudModel(world.env, instant, name, Draws(seed, "warm", name))
            sandboxes = [sandbox_of(pod) for pod in pods]
            left = node.warm_up(primary, seed_of_node, draw.random(), at_once, sandboxes)
        else:
            node.start(primary, 0.0, seed_of_node)
            left = []
        node.note_pool()
        for assignment in node.allocator.assignments():
            self._kubelet.placed_before(node, assignment)
        node.poke()
        return [int(sandbox.container_id) for sandbox in left]

    def start(self, node: SimNode) -> Generator[simpy.Event, Any, None]:
        """Start the daemon of a node that joins; over once the node may have pods."""
        env = self._world.env
        node.note_pool_of(1, 0, 0)
        yield from start_up(node.cloud, node.pool.behaviour, ())
        draw = stream(self._world.scenario.seed, "daemon", node.name)
        primary, *others = self._attached(node)
        node.start(primary, env.now, draw.getrandbits(48), others=others)
        node.maintain()
        first_s = node.wake_at - env.now
        if not node.allocator.in_flight and first_s <= node.pool.behaviour.tick_s:
            # Upstream refills once before it serves; here that is its first tick.
            yield env.timeout(max(first_s, 0.0))
        refilled = env.event()
        node.when_idle(refilled.succeed)
        yield refilled | env.timeout(FIRST_REFILL_S)

    def stop(self, node: SimNode) -> None:
        """Let the daemon go, as a kill does."""
        node.leave()
        self._kubelet.hang_up(node)

    def restart(self, node: SimNode) -> Generator[simpy.Event, Any, None]:
        """Start a daemon again that `stop` has let go; over once it serves.

        Assignments outlive it in the ledger, cooldowns under `native` alone; what EC2 has done
        meanwhile counts, whatever the life before knew of it.
        """
        world = self._world
        life = self._lives[node.index] = self._lives.get(node.index, 0) + 1
        before = node.allocator
        orphans = node.cloud.orphans()
        node.come_back(self._cloud(node.name, node.index, f"life {life}"), life)
        yield from start_up(node.cloud, node.pool.behaviour, orphans)
        now = Instant(world.env.now)
        cooling = tuple(pair for pair in before.cooling() if pair[1] > now)
        if node.pool.behaviour.tick_s:
            # Upstream's checkpoint knows no cooldowns: all that is not assigned is free.
            for _, until in cooling:
                world.recorder.cut(now, node.index, 1, until)
            cooling = ()
        primary, *others = self._attached(node)
        seed = stream(world.scenario.seed, "daemon", node.name, str(life)).getrandbits(48)
        node.start(
            primary,
            now,
            seed,
            others=others,
            assignments=before.assignments(),
            cooling=cooling,
        )
        node.note_pool()
        for sandbox in node.tombstones:
            self._kubelet.released(sandbox, node)
        node.tombstones.clear()
        node.maintain()

    def _attached(self, node: SimNode) -> list[AttachedEni]:
        """Return what EC2 shows of a node's ENIs by device index, those detaching left out."""
        world = self._world
        shown = world.vpc.interfaces_of(node.name, world.env.now)
        return [
            attached_eni(eni)
            for eni in shown
            if eni.attachment is not None and eni.attachment.gone_at == inf
        ]

    # The end.

    def terminate(self, node: SimNode) -> None:
        """Terminate the instance; its pods are gone already."""
        world = self._world
        now = world.env.now
        node.leave()
        node.gone = True
        for sandbox in node.tombstones:
            self._kubelet.released(sandbox, node)
        node.tombstones.clear()
        for _, until in node.allocator.cooling():
            if until > now:
                world.recorder.cut(now, node.index, 1, until)
        world.vpc.terminate_instance(node.name, now)
        node.note_pool_of(0, 0, 0)
        world.note_subnets()

    def launched(self, pool: NodePool, name: str, index: int) -> SimNode | None:
        """Launch an instance while the run goes on; None where EC2 has no address for it."""
        try:
            self.instance(pool, name)
        except Ec2Error:
            return None
        self._world.note_subnets()
        return self.node(pool, name, index)
