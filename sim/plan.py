"""The static question of a design review: whether nodes fit into subnets, at best and at worst.

What one node holds is asked of the allocator itself (`sim/one_node.py`), and addresses come from
subnets placed as EC2 places them (`sim/subnet.py`): five addresses of each subnet are EC2's, an
ENI has a primary address that no pod can have, no node goes beyond its type, and single addresses
break up the /28s that prefixes need.

At best, nodes grew to their pods once and rest, and prefixes were taken before all else. At
worst, each node was full at some time, the pods that stayed keep as many ENIs and prefixes from
going as they can, a share of the pods is being replaced (their old addresses cool), and all ENIs
took their primary addresses before anybody asked for a prefix.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cni.allocator.behaviour import NATIVE, Behaviour
from cni.allocator.model import BlockKind
from cni.settings import Settings
from instance_limits import HOST_NETWORK_PODS
from sim.cloud_numbers import CloudNumbers
from sim.node_type import NodeType
from sim.one_node import Holding, hold
from sim.scenario import SubnetPlan, scenario_for
from sim.streams import stream
from sim.subnet import Subnet

REPLACED = 0.25
"""A Deployment replaces up to this share of its pods at once (maxSurge, 25 % by default)."""

CaseName = Literal["best", "worst"]

ADDRESSES, BLOCKS, QUOTA = "addresses", "/28s", "ENIs per region"
"""What can run out."""

SETTLE_S = 1200.0
"""How long a node is left alone before one looks, and four times what its surplus must last."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A subnet of the plan and the availability zone it is in; "" is a zone of its own."""

    subnet: SubnetPlan
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal nodes: how many, of which type, under which settings, with how many pods.

    `pods` have an address each, on every node; `shared_pods` are spread over the nodes besides.
    Pods on the host's network take no address and are not among them. `max_pods` None is EKS's
    own value.
    """

    name: str
    node_type: NodeType
    settings: Settings
    nodes: int
    pods: int = 0
    shared_pods: int = 0
    max_pods: int | None = None

    @property
    def pods_max(self) -> int:
        """The kubelet's max-pods, host-network pods included."""
        return (
            self.node_type.max_pods(self.settings.kind) if self.max_pods is None else self.max_pods
        )

    @property
    def addresses_max(self) -> int:
        """Addresses that pods of one node can have, MAX_ENI respected."""
        enis = min(self.node_type.enis, self.settings.max_eni or self.node_type.enis)
        return self.node_type.addresses(self.settings.kind) // self.node_type.enis * enis

    @property
    def room(self) -> int:
        """Pods with an address that one node can have."""
        return min(self.pods_max - HOST_NETWORK_PODS, self.addresses_max)

    def loads(self) -> list[tuple[int, int]]:
        """Return how many nodes have how many pods, those with more first.

        >>> from sim.node_type import NodeType
        >>> Pool("dns", NodeType("c5.large", 3, 10), Settings(), 3, shared_pods=2).loads()
        [(2, 1), (1, 0)]
        """
        each, more = divmod(self.shared_pods, self.nodes)
        loads = [(more, self.pods + each + 1), (self.nodes - more, self.pods + each)]
        return [load for load in loads if load[0]]


@dataclass(frozen=True, slots=True)
class Held:
    """What one node holds: addresses by what they are for, and the ENIs and /28s they are on."""

    enis: int
    blocks: int
    kind: BlockKind
    assigned: int
    cooling: int

    @property
    def warm(self) -> int:
        """Addresses that no pod has or had lately."""
        return self.blocks * self.kind.addresses - self.assigned - self.cooling

    @property
    def prefixes(self) -> int:
        """/28s among the blocks."""
        return self.blocks if self.kind is BlockKind.PREFIX else 0

    @property
    def singles(self) -> int:
        """Addresses that EC2 places one by one: primaries and secondary IPs."""
        return self.enis + self.blocks - self.prefixes

    @property
    def addresses(self) -> int:
        """Addresses the subnet lacks, ENI primaries included."""
        return self.enis + self.blocks * self.kind.addresses

    def as_dict(self) -> dict[str, int]:
        """Return the JSON form."""
        return {
            "enis": self.enis,
            "prefixes": self.prefixes,
            "assigned": self.assigned,
            "cooling": self.cooling,
            "warm": self.warm,
            "primary": self.enis,
            "held": self.addresses,
        }


@dataclass(frozen=True, slots=True)
class NodesHeld:
    """Nodes of a pool with equally many pods, and what each of them holds in one case."""

    nodes: int
    pods: int
    each: Held


@dataclass(frozen=True, slots=True)
class SubnetLeft:
    """What a subnet has left; `zone` is a name, or the CIDR of a subnet that is alone in its."""

    cidr: str
    zone: str
    free: int
    free_prefixes: int


@dataclass(frozen=True, slots=True)
class Shortage:
    """What ran out where, and how many nodes had found room by then."""

    what: str
    where: str
    nodes: int

    def __str__(self) -> str:
        """Name it: "addresses of 10.0.0.0/24"."""
        return self.what if self.what == QUOTA else f"{self.what} of {self.where}"


@dataclass(frozen=True, slots=True)
class Case:
    """The plan at best or at worst.

    `placed` counts the nodes of each pool that find room; `fit` tells how many the pool could
    have for all of them to find room, the other pools being as they are.
    `first_out` is what is missing first when all pools grow by the same factor.
    """

    held: tuple[tuple[NodesHeld, ...], ...]
    left: tuple[SubnetLeft, ...]
    placed: tuple[int, ...]
    fit: tuple[int, ...]
    shortages: tuple[Shortage, ...]
    first_out: Shortage

    def addresses(self, pool: int) -> int:
        """Addresses that all nodes of a pool hold together."""
        return sum(group.nodes * group.each.addresses for group in self.held[pool])

    @property
    def enis(self) -> int:
        """ENIs of all nodes."""
        return sum(group.nodes * group.each.enis for groups in self.held for group in groups)


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: both cases, what the subnets were before, and what is wrong whatever the case."""

    pools: tuple[Pool, ...]
    before: tuple[SubnetLeft, ...]
    usable: tuple[int, ...]
    best: Case
    worst: Case
    misfits: tuple[str, ...]
    warnings: tuple[str, ...]

    def fits(self, case: CaseName) -> bool:
        """Tell whether all nodes find room, and all pods a place on their node."""
        return not self.misfits and not (self.best if case == "best" else self.worst).shortages


def plan(  # noqa: PLR0913 - what shapes the answer, by name
    pools: Sequence[Pool],
    subnets: Sequence[Zone],
    *,
    behaviour: Behaviour = NATIVE,
    replaced: float = REPLACED,
    numbers: CloudNumbers | None = None,
    seed: int = 0,
) -> Plan:
    """Work out what the pools hold and whether the subnets have room for it.

    Nodes of a pool are dealt to the zones in turn, and in a zone to the subnet with most free
    addresses. At worst, `replaced` of a node's pods, a share, are replaced within one cool-down.
    Raises ValueError for a plan that makes no sense, such as prefixes on a type without.

    >>> pool = Pool("web", NodeType("m5.large", 3, 10), Settings(), nodes=2, pods=5)
    >>> answer = plan([pool], [Zone(SubnetPlan("10.0.0.0/26"))])
    >>> answer.best.addresses(0), answer.best.fit, answer.fits("worst")
    (40, (2,), False)
    """
    if not pools or not subnets:
        raise ValueError("a plan needs at least one pool and one subnet")
    if not 0 <= replaced <= 1:
        raise ValueError(f"replaced pods {replaced:g}: allowed is a share from 0 to 1")
    misfits: list[str] = []
    warnings: dict[str, None] = {}
    for pool in pools:
        misfits += _misfits(pool)
        warnings |= dict.fromkeys(_warnings(pool, subnets, behaviour))
    quota = (numbers or CloudNumbers.load()).enis_per_region
    grown = tuple(_grown(pool, behaviour) for pool in pools)
    worn = tuple(_worn(pool, behaviour, replaced) for pool in pools)
    for pool, groups in zip(pools, grown, strict=True):
        warnings |= dict.fromkeys(_beyond_max_pods(pool, groups))
    ground = _Ground(subnets, seed, quota)
    if any(pool.settings.kind is BlockKind.PREFIX for pool in pools):
        warnings |= dict.fromkeys(_broken_up(ground.subnets, subnets))
    return Plan(
        pools=tuple(pools),
        before=ground.left(),
        usable=tuple(subnet.usable for subnet in ground.subnets),
        best=_case(grown, lambda: _Ground(subnets, seed, quota)),
        worst=_case(worn, lambda: _Ground(subnets, seed, quota, late=True)),
        misfits=tuple(misfits),
        warnings=tuple(warnings),
    )


# What one node holds.


def _grown(pool: Pool, behaviour: Behaviour) -> tuple[NodesHeld, ...]:
    """Ask the allocator what nodes hold that grew to their pods."""
    groups = []
    for nodes, pods in pool.loads():
        (holding,) = _hold(pool, [min(pods, pool.room)], behaviour)
        groups.append(NodesHeld(nodes, pods, _held(pool, holding, holding.assigned, 0)))
    return tuple(groups)


def _worn(pool: Pool, behaviour: Behaviour, replaced: float) -> tuple[NodesHeld, ...]:
    """Ask it what they hold who were full before, with pods being replaced.

    Pods that replace others come before those go, so the node holds for both, and the addresses
    of the old ones cool when they are gone.
    """
    groups = []
    for nodes, pods in pool.loads():
        within = min(pods, pool.room)
        peak = min(within + math.ceil(replaced * within), pool.room)
        most = [*_hold(pool, [peak], behaviour)]
        if pool.room > peak:
            most += list(_hold(pool, [pool.room, peak], behaviour))[1:]
        holding = max(most, key=lambda one: (one.addresses + one.enis, one.enis))
        groups.append(NodesHeld(nodes, pods, _held(pool, holding, within, peak - within)))
    return tuple(groups)


def _hold(pool: Pool, pods: list[int], behaviour: Behaviour) -> Iterator[Holding]:
    settle_s = SETTLE_S + 4 * behaviour.surplus_hold_s
    return hold(
        pool.node_type,
        pool.settings,
        pods,
        behaviour=behaviour,
        scatter=True,
        settle_s=settle_s,
        max_pods=pool.pods_max,
    )


def _held(pool: Pool, holding: Holding, assigned: int, cooling: int) -> Held:
    kind = pool.settings.kind
    blocks = holding.addresses // kind.addresses
    return Held(holding.enis, blocks, kind, assigned, cooling)


# What the pools ask for, whatever the subnets.


def _misfits(pool: Pool) -> Iterator[str]:
    """Say where pods find no place on their node."""
    most = max(pods for _, pods in pool.loads())
    if most + HOST_NETWORK_PODS > pool.pods_max:
        yield (
            f"{pool.name}: {most} pods and {HOST_NETWORK_PODS} on the host's network are more"
            f" than max-pods {pool.pods_max}"
        )
    if most > pool.addresses_max:
        yield (
            f"{pool.name}: {most} pods are more than a node has addresses for, {pool.addresses_max}"
        )


def _warnings(pool: Pool, subnets: Sequence[Zone], behaviour: Behaviour) -> Iterator[str]:
    """Yield what `scenario_for` warns of, which also refuses what cannot run."""
    scenario = scenario_for(
        pool.node_type,
        pool.settings,
        subnets=[zone.subnet for zone in subnets],
        behaviour=behaviour,
        nodes=pool.nodes,
        max_pods=pool.pods_max,
    )
    for warning in scenario.warnings:
        yield f"{pool.name}: {warning}"


def _beyond_max_pods(pool: Pool, groups: Sequence[NodesHeld]) -> Iterator[str]:
    """Warn of nodes that hold addresses which max-pods lets nobody use."""
    usable = pool.pods_max - HOST_NETWORK_PODS
    most = max(group.each.addresses - group.each.enis for group in groups)
    if most > usable and pool.settings.kind is BlockKind.SECONDARY_IP:
        yield (
            f"{pool.name}: a node holds {most} addresses for pods, and max-pods {pool.pods_max}"
            f" lets it use {max(usable, 0)}"
        )


def _broken_up(placed: Sequence[Subnet], subnets: Sequence[Zone]) -> Iterator[str]:
    """Warn of subnets whose /28s the addresses of others, at random places, have broken up."""
    for subnet, zone in zip(placed, subnets, strict=True):
        # The first and the last /28 hold addresses that are EC2's own.
        possible = max(subnet.network.num_addresses // BlockKind.PREFIX.addresses - 2, 0)
        if zone.subnet.used and not zone.subnet.reservations and subnet.free_prefixes < possible:
            yield (
                f"{subnet.network}: others at random places leave {subnet.free_prefixes} of"
                f" {possible} /28s whole; a CIDR reservation for prefixes keeps them whole"
            )


# Where it goes.


class _Ground:
    """The subnets while nodes are launched into them; `late` prefixes are taken after all else."""

    def __init__(
        self, subnets: Sequence[Zone], seed: int, quota: int, *, late: bool = False
    ) -> None:
        self.subnets = [
            Subnet(
                f"subnet-{number}",
                zone.subnet.cidr,
                stream(seed, f"placement of subnet-{number}"),
                zone=zone.zone or zone.subnet.cidr,
                reservations=zone.subnet.reservations,
                already_used=zone.subnet.used,
            )
            for number, zone in enumerate(subnets)
        ]
        self._zones: dict[str, list[Subnet]] = {}
        for subnet in self.subnets:
            self._zones.setdefault(subnet.zone, []).append(subnet)
        self._promised = dict.fromkeys(self.subnets, 0)
        self._quota = quota
        self.late = late
        self._dealt: dict[int, int] = {}
        self._enis = 0
        self.nodes = 0

    def launch(self, pool: int, held: Held) -> Shortage | None:
        """Give a node what it holds, in the zone whose turn it is, or say what is missing.

        Each pool has turns of its own, as a group of nodes balances its own zones.
        """
        if self._enis + held.enis > self._quota:
            return Shortage(QUOTA, "", self.nodes)
        turn = self._dealt.setdefault(pool, pool)
        self._dealt[pool] += 1
        zone = list(self._zones.values())[turn % len(self._zones)]
        subnet = max(zone, key=self._free)
        where = str(subnet.network)
        if held.singles > subnet.free_singles:
            return Shortage(ADDRESSES, where, self.nodes)
        taken = subnet.take_singles(held.singles)
        if subnet.free_prefixes < self._promised[subnet] + held.prefixes:
            for address in taken:
                subnet.give_back_single(address)
            return Shortage(BLOCKS, where, self.nodes)
        if self.late:
            self._promised[subnet] += held.prefixes
        else:
            subnet.take_prefixes(held.prefixes)
        self.nodes += 1
        self._enis += held.enis
        return None

    def _free(self, subnet: Subnet) -> int:
        return subnet.free - self._promised[subnet] * BlockKind.PREFIX.addresses

    def left(self) -> tuple[SubnetLeft, ...]:
        """Tell what each subnet has left."""
        return tuple(
            SubnetLeft(
                str(subnet.network),
                subnet.zone,
                self._free(subnet),
                subnet.free_prefixes - self._promised[subnet],
            )
            for subnet in self.subnets
        )


def _case(held: tuple[tuple[NodesHeld, ...], ...], fresh: Callable[[], _Ground]) -> Case:
    """Place all nodes, then see how far each pool, and all together, could grow."""
    asked = fresh()
    placed = [0] * len(held)
    # The first shortage of each kind: later ones tell nothing new.
    shortages: dict[tuple[str, str], Shortage] = {}
    for pool in _in_order(held, late=asked.late):
        for one in _nodes(held[pool]):
            missing = asked.launch(pool, one)
            placed[pool] += missing is None
            if missing is not None:
                shortages.setdefault((missing.what, missing.where), missing)
    left = asked.left()
    return Case(
        held=held,
        left=left,
        placed=tuple(placed),
        fit=tuple(_fit(held, pool, fresh()) for pool in range(len(held))),
        shortages=tuple(shortages.values()),
        first_out=_first_out(held, fresh() if shortages else asked, grown=not shortages),
    )


def _in_order(held: Sequence[tuple[NodesHeld, ...]], *, late: bool) -> list[int]:
    """Order the pools: those with prefixes find most whole /28s first, and fewest last."""
    return sorted(range(len(held)), key=lambda pool: (held[pool][0].each.prefixes == 0) != late)


def _nodes(groups: Sequence[NodesHeld]) -> Iterator[Held]:
    for group in groups:
        for _ in range(group.nodes):
            yield group.each


def _fit(held: tuple[tuple[NodesHeld, ...], ...], pool: int, ground: _Ground) -> int:
    """Count the nodes of one pool, those with most pods, that all find room beside the others."""
    own = held[pool][0].each
    fit = 0
    for other in _in_order(held, late=ground.late):
        if other == pool and not own.prefixes:
            continue
        for one in _nodes(held[other]):
            missing = ground.launch(other, one)
            if other == pool and missing is not None:
                return fit
            fit += other == pool
    while ground.launch(pool, own) is None:
        fit += 1
    return fit


def _first_out(
    held: tuple[tuple[NodesHeld, ...], ...], ground: _Ground, *, grown: bool
) -> Shortage:
    """Launch nodes of all pools by their shares until something runs out.

    `grown` says that the ground holds all nodes asked for already.
    """
    kinds = [(at, group) for at, groups in enumerate(held) for group in groups]
    launched = [group.nodes if grown else 0 for _, group in kinds]
    while True:
        # The one that is furthest behind its share; the first of equals.
        turn = min(range(len(kinds)), key=lambda at: ((launched[at] + 1) / kinds[at][1].nodes, at))
        pool, group = kinds[turn]
        missing = ground.launch(pool, group.each)
        if missing is not None:
            return missing
        launched[turn] += 1
