"""A pool of equal nodes, and what happens to them while a run goes on: values, nothing else.

Who makes it happen is `sim/fleet.py`. All instants are seconds since the trace's zero, warm-up
included.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cni.allocator.behaviour import NATIVE, Behaviour
from cni.allocator.model import BlockKind, NodeLimits
from cni.allocator.targets import WarmEni, WarmTarget
from cni.settings import Settings, effective
from instance_limits import HOST_NETWORK_PODS
from sim.node_type import NodeType
from sim.scheduler import Capacity
from sim.vpc import InstanceShape

JOIN_S = 60.0
"""From the request for a node until its daemon starts: an EKS node boots in 40 to 90 s."""

SPOT_NOTICE_S = 120.0
"""EC2 announces the loss of a spot instance two minutes before ("Spot interruption notices")."""

GRACE_S = 30.0
"""A pod's terminationGracePeriodSeconds, by default."""


class ScenarioError(ValueError):
    """A scenario that cannot be run; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """A pool that grows for pods without a node, and shrinks where nodes stand empty.

    `join_s` is the time from the request to the daemon's start, `batch_s` how long pods are
    gathered before nodes are asked for (Karpenter's batch window, 10 s at most), `empty_s` how
    long a node stands empty before it goes.
    """

    least: int = 0
    most: int = 100
    join_s: float = JOIN_S
    batch_s: float = 10.0
    empty_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Recycling:
    """All nodes of a pool are replaced, `batch` at a time, beginning at `at_s`.

    New nodes join first; then the old ones are cordoned and drained, each pod within `grace_s`,
    and terminated. The next batch follows at once. `every_s` repeats the whole; 0 does not.
    """

    at_s: float
    batch: int = 1
    join_s: float = JOIN_S
    grace_s: float = GRACE_S
    every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SpotLoss:
    """Nodes that EC2 takes back: `per_node_hour` of them, by chance, `notice_s` after the notice.

    With a notice the node is cordoned and drained; a `notice_s` of 0 loses it at once. A new node
    takes its place `join_s` after the notice.
    """

    per_node_hour: float
    notice_s: float = SPOT_NOTICE_S
    join_s: float = JOIN_S
    grace_s: float = GRACE_S


@dataclass(frozen=True, slots=True)
class Cordon:
    """`nodes` of a pool, those first made, take no more pods from `at_s` on for `for_s` seconds.

    A `for_s` of 0 is until the end.
    """

    at_s: float
    nodes: int
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DaemonRestart:
    """The daemons of a pool restart, `batch` at a time, each away for `down_s`, from `at_s` on.

    This is a rollout of the DaemonSet; `every_s` repeats it, 0 does not.
    """

    at_s: float
    batch: int = 1
    down_s: float = 5.0
    every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Changes:
    """What happens to the nodes of a pool; nothing by default."""

    autoscaling: Autoscaling | None = None
    recycling: Recycling | None = None
    spot: SpotLoss | None = None
    cordons: tuple[Cordon, ...] = ()
    restarts: tuple[DaemonRestart, ...] = ()

    def described(self) -> dict[str, str]:
        """Return each change in words, ready to print."""
        told: dict[str, str] = {}
        if (scaling := self.autoscaling) is not None:
            told["autoscaling"] = (
                f"{scaling.least} to {scaling.most} nodes, asked for every {scaling.batch_s:g} s,"
                f" join after {scaling.join_s:g} s, go after {scaling.empty_s:g} s empty"
            )
        if (recycling := self.recycling) is not None:
            told["recycling"] = (
                f"{recycling.batch} at a time from {recycling.at_s:g} s{_every(recycling.every_s)},"
                f" new ones join after {recycling.join_s:g} s, pods go within"
                f" {recycling.grace_s:g} s"
            )
        if (spot := self.spot) is not None:
            told["spot"] = (
                f"{spot.per_node_hour:g} losses per node and hour, {spot.notice_s:g} s notice,"
                f" new ones join after {spot.join_s:g} s, pods go within {spot.grace_s:g} s"
            )
        if self.cordons:
            told["cordon"] = "; ".join(
                f"{cordon.nodes} nodes from {cordon.at_s:g} s"
                + (f" for {cordon.for_s:g} s" if cordon.for_s else "")
                for cordon in self.cordons
            )
        if self.restarts:
            told["daemon restarts"] = "; ".join(
                f"{restart.batch} at a time from {restart.at_s:g} s{_every(restart.every_s)},"
                f" {restart.down_s:g} s each"
                for restart in self.restarts
            )
        return told


def _every(seconds: float) -> str:
    return f" every {seconds:g} s" if seconds else ""


@dataclass(frozen=True, slots=True)
class NodePool:
    """Equal nodes under one setting.

    `limits` is what the allocator is told (MAX_ENI and max-pods included), `shape` what EC2
    enforces, `nodes` how many there are when the trace begins. `zones` are the availability zones
    it is dealt to, in turn; none means all of the scenario's. `takes` are patterns of pods' names
    (`fnmatch`): those pods go to this pool, and no others; none means all pods that no other pool
    claims. `settings` are the effective variables, for reports.
    """

    limits: NodeLimits
    shape: InstanceShape
    name: str = "nodes"
    instance: str = "custom"
    nodes: int = 1
    capacity: Capacity = Capacity(pods=110)
    behaviour: Behaviour = NATIVE
    target: WarmTarget = WarmEni(1)
    kind: BlockKind = BlockKind.SECONDARY_IP
    cooldown_s: float = 30.0
    zones: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    changes: Changes = Changes()
    settings: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be run; raises ScenarioError."""
        scaling = self.changes.autoscaling
        least = 1 if scaling is None else 0
        if self.nodes < least:
            raise ScenarioError(f"{self.nodes} nodes: at least one is needed")
        if scaling is not None and scaling.least > scaling.most:
            raise ScenarioError(
                f"pool {self.name}: autoscaling from {scaling.least} nodes (least) to"
                f" {scaling.most} (most): least may not be above most"
            )
        if scaling is not None and not scaling.least <= self.nodes <= scaling.most:
            raise ScenarioError(
                f"pool {self.name} begins with {self.nodes} nodes and may have"
                f" {scaling.least} to {scaling.most}"
            )
        if self.kind is BlockKind.PREFIX and not self.shape.prefixes_allowed:
            raise ScenarioError(
                f"{self.instance} takes no prefixes: ENABLE_PREFIX_DELEGATION needs a Nitro or"
                " bare-metal instance type"
            )

    def described(self) -> dict[str, str]:
        """Return what shapes the pool beside its settings, ready to print."""
        capacity = self.capacity
        told = {
            "max-pods": str(self.limits.pods),
            "ENIs x addresses": f"{self.limits.enis} x {self.shape.ipv4_per_eni}",
            "CPU per node": f"{capacity.cpu_m} m" if capacity.cpu_m else "not limited",
            "memory per node": (
                f"{capacity.memory_mib} MiB" if capacity.memory_mib else "not limited"
            ),
        }
        if self.zones:
            told["zones"] = ", ".join(self.zones)
        if self.takes:
            told["takes pods"] = ", ".join(self.takes)
        return told | self.changes.described()


def pool_for(  # noqa: PLR0913 - what shapes a pool, by name
    node_type: NodeType,
    settings: Settings,
    *,
    name: str = "nodes",
    behaviour: Behaviour = NATIVE,
    nodes: int = 1,
    max_pods: int | None = None,
    ignore_requests: bool = False,
    zones: tuple[str, ...] = (),
    takes: tuple[str, ...] = (),
    changes: Changes | None = None,
) -> NodePool:
    """Make a pool of an instance type and settings.

    `max_pods` None is EKS's own value for the type; pods on the host's network are among it.
    Raises ScenarioError.
    """
    kind = settings.kind
    pods = node_type.max_pods(kind) if max_pods is None else max_pods
    if pods <= HOST_NETWORK_PODS:
        raise ScenarioError(f"max-pods {pods} leaves no room beside aws-node and kube-proxy")
    warnings = [*settings.warnings]
    if pods - HOST_NETWORK_PODS > node_type.addresses(kind):
        warnings.append(
            f"max-pods {pods} promises more pods than {node_type.name} has addresses for"
            f" ({node_type.addresses(kind)}): the kubelet accepts pods that wait for ever"
        )
    enis = min(node_type.enis, settings.max_eni or node_type.enis)
    cpu_m = 0 if ignore_requests else node_type.allocatable_cpu_m()
    memory_mib = 0 if ignore_requests else node_type.allocatable_memory_mib(pods)
    return NodePool(
        limits=NodeLimits(enis, node_type.ipv4_per_eni - 1, pods),
        shape=node_type.shape,
        name=name,
        instance=node_type.name,
        nodes=nodes,
        capacity=Capacity(pods - HOST_NETWORK_PODS, cpu_m, memory_mib),
        behaviour=behaviour,
        target=settings.target,
        kind=kind,
        cooldown_s=settings.ip_cooldown_period_s,
        zones=zones,
        takes=takes,
        changes=Changes() if changes is None else changes,
        settings=effective(settings),
        warnings=tuple(warnings),
    )
