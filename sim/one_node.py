"""What one node holds at each pod count: warm targets without churn, limits of EC2, or luck.

EC2 answers at once and the subnet has no end, so what is left is the allocator and its tick.
The node starts fresh: its primary ENI has no secondary address. Pods come one by one, three
seconds apart from the sixtieth second on, or all at once; that is how the target tables of
amazon-vpc-cni-k8s come out of its own code.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf

import simpy

from cni.allocator.behaviour import NATIVE, Behaviour
from cni.allocator.model import AttachedEni, BlockKind, Instant, NodeLimits, SandboxKey
from cni.settings import Settings
from instance_limits import HOST_NETWORK_PODS
from sim.checks import Auditor
from sim.cloud import Account, CloudModel
from sim.cloud_numbers import CloudNumbers
from sim.kubelet import IFNAME, NETWORK, Kubelet
from sim.node import SimNode
from sim.node_pool import NodePool
from sim.node_type import NodeType
from sim.record import Recorder
from sim.scheduler import Capacity
from sim.streams import Draws, stream
from sim.subnet import Subnet
from sim.vpc import Vpc

FIRST_POD_S = 60.0
BETWEEN_PODS_S = 3.0
QUIET_S = 300.0
"""A node that made no call for so long has settled; upstream's slowest loop takes 125 s."""

SUBNETS_WITHOUT_END = ("10.0.0.0/16", "10.0.0.0/12")
"""The smaller one is quicker to make, and has four times what most instance types can hold."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A node at one pod count; counts of addresses leave ENI primaries out.

    `per_eni` lists blocks by device index (secondary IPs, or prefixes), `available` counts every
    address no pod holds, cooling or not. `calls` and `refused` (ADDs, each retry one) count
    since the node's start. `settled` is false where the node still makes calls.
    """

    pods: int
    enis: int
    addresses: int
    prefixes: int
    assigned: int
    available: int
    cooling: int
    free_prefixes: int
    per_eni: tuple[int, ...]
    calls: dict[str, int]
    refused: int
    settled: bool

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return asdict(self) | {"per_eni": list(self.per_eni)}


def hold(  # noqa: PLR0913 - the questions one can ask of a node, by name
    node_type: NodeType,
    settings: Settings,
    pods: Sequence[int],
    *,
    behaviour: Behaviour = NATIVE,
    burst: bool = False,
    scatter: bool = False,
    settle_s: float = 1200.0,
    seed: int = 0,
    max_pods: int | None = None,
) -> Iterator[Holding]:
    """Yield what a fresh node holds at each pod count in turn, `settle_s` after the last change.

    A smaller number deletes pods drawn from the seed or, with `scatter`, so that those which
    stay keep as many ENIs and prefixes from going as they can. `max_pods` None sets no bound but
    the addresses of the type. Raises ValueError for counts that make no sense.

    >>> from cni.settings import Settings
    >>> from sim.node_type import NodeType
    >>> [h.per_eni for h in hold(NodeType("t3.small", 3, 4), Settings(warm_ip_target=1), [0, 5])]
    [(1,), (3, 3)]
    """
    if not pods or any(count < 0 for count in pods):
        raise ValueError(f"pod counts {list(pods)}: allowed are 0 and more, at least one count")
    bound = node_type.addresses(settings.kind) + HOST_NETWORK_PODS if max_pods is None else max_pods
    node = _OneNode(node_type, settings, sum(pods), behaviour, bound, seed)
    for count in pods:
        node.reach(count, burst=burst, scatter=scatter)
        node.rest(settle_s)
        yield node.holding(count, settle_s)


class _OneNode:
    """One node, its pods and its own EC2."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part it is wired to
        self,
        node_type: NodeType,
        settings: Settings,
        most_pods: int,
        behaviour: Behaviour,
        max_pods: int,
        seed: int,
    ) -> None:
        enis = min(node_type.enis, settings.max_eni or node_type.enis)
        small, large = SUBNETS_WITHOUT_END
        cidr = small if node_type.addresses(settings.kind) < 2**14 else large
        pool = NodePool(
            limits=NodeLimits(enis, node_type.ipv4_per_eni - 1, max_pods),
            shape=node_type.shape,
            instance=node_type.name,
            capacity=Capacity(max_pods),
            behaviour=behaviour,
            target=settings.target,
            kind=settings.kind,
            cooldown_s=settings.ip_cooldown_period_s,
        )
        self.env = env = simpy.Environment()
        vpc = Vpc([Subnet("subnet-0", cidr, stream(seed, "placement"))])
        launched = vpc.launch_instance("node-0", pool.shape, "subnet-0", 0.0)
        self.calls: Counter[str] = Counter()
        self.called_at = -inf
        account = Account.of(CloudNumbers.instant(), vpc)
        draws = Draws(seed, "node", "node-0")
        cloud = CloudModel(env, account, "node-0", draws, on_call=self._note)
        self.recorder = Recorder(most_pods)
        self.kubelet = Kubelet(
            env,
            self.recorder,
            [inf] * most_pods,
            inf,
            Draws(seed, "kubelet"),
            lambda _pod, _node: None,
        )
        auditor = Auditor(vpc)
        self.node = SimNode(
            env, 0, "node-0", pool, cloud, self.recorder, auditor, self.kubelet.served_in_line
        )
        primary = AttachedEni(launched.eni_id, 0, launched.primary_ip, ())
        self.node.start(primary, 0.0, stream(seed, "daemon").getrandbits(48))
        self.node.poke()
        self.choice = stream(seed, "deleted pods")
        self.alive: list[int] = []
        self.started = 0
        self.kind = settings.kind

    def _note(self, api: str, _started: float, ended: float, _code: str) -> None:
        self.calls[api] += 1
        self.called_at = ended

    def reach(self, count: int, *, burst: bool, scatter: bool) -> None:
        """Start or delete pods until there are `count`."""
        if len(self.alive) < count and self.env.now < FIRST_POD_S:
            self.env.run(until=FIRST_POD_S)
        while len(self.alive) < count:
            self.alive.append(self.started)
            self.kubelet.add(self.started, self.node)
            self.started += 1
            if not burst and len(self.alive) < count:
                self.env.run(until=self.env.now + BETWEEN_PODS_S)
        if scatter and len(self.alive) > count:
            self.alive = self._scattered()
        while len(self.alive) > count:
            last = len(self.alive) - 1 if scatter else self.choice.randrange(len(self.alive))
            self.kubelet.remove(self.alive.pop(last), self.node)

    def _scattered(self) -> list[int]:
        """Order the pods: first one on each ENI, then one in each block, then all others.

        The primary ENI stays without pods too, so it counts as having one.
        """
        held = self.node.allocator.find
        ranked: list[tuple[int, int, int]] = []
        in_block: Counter[int] = Counter()
        blocks_on: Counter[int] = Counter()
        unserved: list[int] = []
        for pod in self.alive:
            assignment = held(SandboxKey(NETWORK, str(pod), IFNAME))
            if assignment is None:
                unserved.append(pod)
                continue
            block = int(assignment.address) // self.kind.addresses
            if in_block[block] == 0:
                blocks_on[assignment.device_index] += 1
            primary = assignment.device_index == 0
            ranked.append((in_block[block], blocks_on[assignment.device_index] + primary, pod))
            in_block[block] += 1
        return [pod for _, _, pod in sorted(ranked)] + unserved

    def rest(self, seconds: float) -> None:
        """Let time pass without a pod changing."""
        if seconds > 0:
            self.env.run(until=self.env.now + seconds)

    def holding(self, pods: int, settle_s: float) -> Holding:
        """Look at the node."""
        allocator = self.node.allocator
        counts = allocator.counts(Instant(self.env.now))
        quiet_s = self.env.now - self.called_at
        prefixes = self.kind is BlockKind.PREFIX
        return Holding(
            pods=pods,
            enis=counts.enis,
            addresses=counts.addresses_total,
            prefixes=counts.blocks_total if prefixes else 0,
            assigned=counts.assigned,
            available=counts.addresses_total - counts.assigned,
            cooling=counts.cooling,
            free_prefixes=counts.blocks_free if prefixes else 0,
            per_eni=tuple(len(eni.blocks) for eni in allocator.enis()),
            calls=dict(sorted(self.calls.items())),
            refused=sum(self.recorder.refused),
            settled=not allocator.in_flight and quiet_s >= min(QUIET_S, settle_s),
        )
