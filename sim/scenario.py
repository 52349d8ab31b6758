"""Everything that shapes a run beside its trace: a value, checked before anything starts.

A run is a pure function of a scenario and a trace. Random numbers come from streams named by
purpose (`sim/streams.py`), so that two settings meet the same pods and the same latencies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cni.allocator.actions import FailureReason
from cni.allocator.behaviour import NATIVE, Behaviour
from cni.cloud.codes import reason_of
from cni.settings import Settings
from sim.cloud_numbers import CloudNumbers
from sim.node_pool import NodePool, ScenarioError, pool_for
from sim.node_type import NodeType
from sim.scheduler import Placement
from sim.subnet import Reservation, parse_subnet

__all__ = [
    "POD_RETRY_S",
    "WARM_UP_S",
    "FaultPlan",
    "Scenario",
    "ScenarioError",
    "SubnetPlan",
    "scenario_for",
]

POD_RETRY_S = (10.0, 15.0)
"""The kubelet tries a failed sandbox again after 10 s and up to half of that more
(kubelet pod_workers: backOffPeriod, workerBackOffPeriodJitterFactor)."""

WARM_UP_S = 1200.0
"""How long before the trace's zero a warm node's daemon was started."""


@dataclass(frozen=True, slots=True)
class SubnetPlan:
    """A subnet as the scenario wants it.

    `used` is a share below 1, or a count, of addresses that others hold. Subnets of one `zone`
    share its nodes: each goes to the one with most free addresses. Where no subnet names a zone,
    nodes are dealt to the subnets in turn.
    """

    cidr: str
    used: float = 0.0
    reservations: tuple[Reservation, ...] = ()
    zone: str = ""

    def __post_init__(self) -> None:
        """Refuse a CIDR that is none; raises ValueError."""
        parse_subnet(self.cidr)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What goes wrong with EC2: a `share` of the calls of one API, in a span of time.

    `api` "*" means every API of EC2, the metadata (ReadMetadata) not among them. With a `code`
    (EC2's) a call fails with it, before it took effect or, where the code leaves that open, after;
    `delay_s` is added to its latency.
    The span is [from_s, until_s); an `until_s` of 0 is the end. Chance belongs to the node and the
    call's number, so that two settings meet the same.
    """

    api: str = "*"
    code: str = ""
    share: float = 1.0
    delay_s: float = 0.0
    takes_effect: bool = False
    from_s: float = 0.0
    until_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an effect where the code says there was none; raises ScenarioError."""
        unknown = reason_of(self.code, "") is FailureReason.UNKNOWN_OUTCOME
        if self.takes_effect and not unknown:
            says = f"code {self.code} says that nothing happened" if self.code else "no code"
            raise ScenarioError(
                f"takes_effect with {says}: allowed are codes that leave it open, such as"
                " RequestTimeout and InternalError"
            )

    def __str__(self) -> str:
        """Tell it in a line."""
        what = [self.code] if self.code else []
        if self.delay_s:
            what.append(f"+{self.delay_s:g} s")
        if self.takes_effect:
            what.append("after its effect")
        until = f" until {self.until_s:g} s" if self.until_s else ""
        since = f" from {self.from_s:g} s" if self.from_s else ""
        return f"{self.share:.3%} of {self.api}: {', '.join(what)}{since}{until}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fleet: pools of nodes in subnets, with one account's EC2 between them.

    `warm` nodes have been up for a while at the trace's zero, with the pods that arrive at zero
    on them; others start their daemon then, with the calls that takes, and pods of zero come as
    all others. The first `warm_up_s` seconds of the trace are cut from the figures.
    """

    subnets: tuple[SubnetPlan, ...]
    pools: tuple[NodePool, ...]
    seed: int = 0
    numbers: CloudNumbers = field(default_factory=CloudNumbers.load)
    faults: tuple[FaultPlan, ...] = ()
    denied: tuple[str, ...] = ()
    """APIs that the nodes' role may not use."""
    placement: Placement = "spread"
    ignore_requests: bool = False
    warm: bool = True
    warm_up_s: float = 0.0
    checks: bool = True
    command: tuple[str, ...] = ()
    """The words that make this run again, for its report."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run; raises ScenarioError."""
        if not self.subnets:
            raise ScenarioError("no subnet: name at least one CIDR")
        if not self.pools:
            raise ScenarioError("no pool of nodes: name at least one")
        names = [pool.name for pool in self.pools]
        if len(set(names)) < len(names):
            raise ScenarioError(f"two pools of nodes have one name: {', '.join(names)}")
        zoned = [plan for plan in self.subnets if plan.zone]
        if zoned and len(zoned) < len(self.subnets):
            raise ScenarioError("name the zone of every subnet, or of none")
        zones = {plan.zone for plan in zoned}
        for pool in self.pools:
            for zone in pool.zones:
                if zone not in zones:
                    known = ", ".join(sorted(zones)) or "none, since no subnet names one"
                    raise ScenarioError(f"pool {pool.name}: zone {zone}: known are {known}")

    @property
    def pool(self) -> NodePool:
        """The one pool of a scenario that has one; raises ScenarioError for more."""
        if len(self.pools) > 1:
            raise ScenarioError(f"{len(self.pools)} pools of nodes where one is judged")
        return self.pools[0]

    @property
    def nodes(self) -> int:
        """Nodes when the trace begins, of all pools."""
        return sum(pool.nodes for pool in self.pools)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to mind about the settings, of all pools."""
        if len(self.pools) == 1:
            return self.pools[0].warnings
        return tuple(f"pool {pool.name}: {line}" for pool in self.pools for line in pool.warnings)

    def described(self) -> dict[str, str]:
        """Return what shaped the run beside settings and trace, ready to print."""
        told: dict[str, str] = {}
        for pool in self.pools:
            before = "" if len(self.pools) == 1 else f"{pool.name}: "
            told |= {f"{before}{name}": value for name, value in pool.described().items()}
        requests = "ignored" if self.ignore_requests else "respected"
        told |= {
            "placement": f"{self.placement}, requests {requests}",
            "start": "warm" if self.warm else "cold",
            "checks": "on" if self.checks else "off",
        }
        used = [f"{plan.cidr} {_share_or_count(plan.used)}" for plan in self.subnets if plan.used]
        if used:
            told["used by others"] = ", ".join(used)
        reserved = [str(one.cidr) for plan in self.subnets for one in plan.reservations]
        if reserved:
            told["subnet reservations"] = ", ".join(reserved)
        if any(plan.zone for plan in self.subnets):
            told["zones"] = ", ".join(f"{plan.cidr} in {plan.zone}" for plan in self.subnets)
        if self.warm_up_s:
            told["warm-up, cut"] = f"{self.warm_up_s:g} s"
        if self.faults:
            told["EC2 faults"] = "; ".join(map(str, self.faults))
        if self.denied:
            told["denied by the role"] = ", ".join(self.denied)
        return told


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
    """Make a scenario of one pool from a node type and settings, as the command line does.

    `subnets` are plans or plain CIDRs; one CIDR may stand by itself. `max_pods` None takes
    EKS's own value for the type and mode; host-network pods count in it.
    Raises ScenarioError.
    """
    pool = pool_for(
        node_type,
        settings,
        behaviour=behaviour,
        nodes=nodes,
        max_pods=max_pods,
        ignore_requests=ignore_requests,
    )
    return Scenario(
        subnets=plans_of(subnets),
        pools=(pool,),
        seed=seed,
        numbers=CloudNumbers.load() if numbers is None else numbers,
        placement=placement,
        ignore_requests=ignore_requests,
        warm=warm,
        checks=checks,
        command=command,
    )


def _share_or_count(used: float) -> str:
    return f"{used:.4g} of it" if used < 1.0 else f"{used:g} addresses"


def plans_of(subnets: str | Sequence[str | SubnetPlan]) -> tuple[SubnetPlan, ...]:
    """Turn one CIDR, or several CIDRs or plans, into plans."""
    listed = [subnets] if isinstance(subnets, str) else subnets
    return tuple(SubnetPlan(plan) if isinstance(plan, str) else plan for plan in listed)
