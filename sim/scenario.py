"""Everything that shapes a run beside its trace: a value, checked before anything starts.

A run is a pure function of a scenario and a trace. Random numbers come from streams named by
purpose (`sim/streams.py`), so that two settings meet the same pods and the same latencies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cni.allocator.behaviour import NATIVE, Behaviour
from cni.allocator.model import BlockKind, NodeLimits
from cni.allocator.targets import WarmEni, WarmTarget
from cni.settings import Settings, effective
from instance_limits import HOST_NETWORK_PODS
from sim.cloud_numbers import CloudNumbers
from sim.node_type import NodeType
from sim.scheduler import Capacity, Placement
from sim.subnet import Reservation, parse_subnet
from sim.vpc import InstanceShape

POD_RETRY_S = (10.0, 15.0)
"""The kubelet tries a failed sandbox again after 10 s and up to half of that more
(kubelet pod_workers: backOffPeriod, workerBackOffPeriodJitterFactor)."""

WARM_UP_S = 1200.0
"""How long before the trace's zero a warm node's daemon was started."""


class ScenarioError(ValueError):
    """A scenario that cannot be run; the message says what to change."""


@dataclass(frozen=True, slots=True)
class SubnetPlan:
    """A subnet as the scenario wants it.

    `used` is a share below 1, or a count, of addresses that others hold.
    """

    cidr: str
    used: float = 0.0
    reservations: tuple[Reservation, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a CIDR that is none; raises ValueError."""
        parse_subnet(self.cidr)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fleet of equal nodes under one setting.

    `limits` is what the allocator is told (MAX_ENI and max-pods included), `shape` what EC2
    enforces. `warm` nodes have been up for a while at the trace's zero; others start their
    daemon then, with the calls that takes. `settings` are the effective variables, for reports.
    """

    subnets: tuple[SubnetPlan, ...]
    limits: NodeLimits
    shape: InstanceShape
    instance: str = "custom"
    nodes: int = 1
    capacity: Capacity = Capacity(pods=110)
    behaviour: Behaviour = NATIVE
    target: WarmTarget = WarmEni(1)
    kind: BlockKind = BlockKind.SECONDARY_IP
    cooldown_s: float = 30.0
    settings: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seed: int = 0
    numbers: CloudNumbers = field(default_factory=CloudNumbers.load)
    placement: Placement = "spread"
    ignore_requests: bool = False
    warm: bool = True
    checks: bool = True
    command: tuple[str, ...] = ()
    """The words that make this run again, for its report."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run; raises ScenarioError."""
        if self.nodes < 1:
            message = f"{self.nodes} nodes: at least one is needed"
            raise ScenarioError(message)
        if not self.subnets:
            message = "no subnet: name at least one CIDR"
            raise ScenarioError(message)
        if self.kind is BlockKind.PREFIX and not self.shape.prefixes_allowed:
            message = (
                f"{self.instance} takes no prefixes: ENABLE_PREFIX_DELEGATION needs a Nitro or"
                " bare-metal instance type"
            )
            raise ScenarioError(message)

    def described(self) -> dict[str, str]:
        """Return what shaped the run beside settings and trace, ready to print."""
        capacity = self.capacity
        requests = "ignored" if self.ignore_requests else "respected"
        reserved = sum(len(plan.reservations) for plan in self.subnets)
        told = {
            "max-pods": str(self.limits.pods),
            "ENIs x addresses": f"{self.limits.enis} x {self.shape.ipv4_per_eni}",
            "CPU per node": f"{capacity.cpu_m} m" if capacity.cpu_m else "not limited",
            "memory per node": (
                f"{capacity.memory_mib} MiB" if capacity.memory_mib else "not limited"
            ),
            "placement": f"{self.placement}, requests {requests}",
            "start": "warm" if self.warm else "cold",
            "checks": "on" if self.checks else "off",
        }
        return told | ({"subnet reservations": str(reserved)} if reserved else {})


def scenario_for(  # noqa: PLR0913 - what shapes a run, by name
    node_type: NodeType,
    settings: Settings,
    *,
    subnets: str | Sequence[str | SubnetPlan],
    behaviour: Behaviour = NATIVE,
    nodes: int = 1,
    max_pods: int | None = None,
    seed: int = 0,
    placement: Placement = "spread",
    ignore_requests: bool = False,
    warm: bool = True,
    checks: bool = True,
    numbers: CloudNumbers | None = None,
    command: tuple[str, ...] = (),
) -> Scenario:
    """Make a scenario from a node type and settings, as the command line and notebooks do.

    `subnets` are plans or plain CIDRs; one CIDR may stand by itself. `max_pods` None takes
    EKS's own value for the type and mode; host-network pods count in it.
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
    return Scenario(
        subnets=tuple(
            SubnetPlan(plan) if isinstance(plan, str) else plan
            for plan in ([subnets] if isinstance(subnets, str) else subnets)
        ),
        limits=NodeLimits(enis, node_type.ipv4_per_eni - 1, pods),
        shape=node_type.shape,
        instance=node_type.name,
        nodes=nodes,
        capacity=Capacity(pods - HOST_NETWORK_PODS, cpu_m, memory_mib),
        behaviour=behaviour,
        target=settings.target,
        kind=kind,
        cooldown_s=settings.ip_cooldown_period_s,
        settings=effective(settings),
        warnings=tuple(warnings),
        seed=seed,
        numbers=CloudNumbers.load() if numbers is None else numbers,
        placement=placement,
        ignore_requests=ignore_requests,
        warm=warm,
        checks=checks,
        command=command,
    )
