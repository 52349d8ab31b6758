"""The figures of a run, as one value: what the terminal, `summary.json` and the report show.

Nothing is computed here: `sim/metrics.py` fills a `Summary` from a record. Seconds are
simulated, shares lie between 0 and 1, means over time are weighted by duration, and None
stands for a figure that a run does not have (no pod asked, no subnet changed).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over time: mean and p95 weighted by duration, and the largest value."""

    mean: float
    p95: int
    max: int

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"mean": _rounded(self.mean), "p95": self.p95, "max": self.max}


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds that pods waited for an address; None where no pod asked for one."""

    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "p50": _rounded(self.p50),
            "p90": _rounded(self.p90),
            "p99": _rounded(self.p99),
            "max": _rounded(self.max),
        }


@dataclass(frozen=True, slots=True)
class Addresses:
    """What became of the addresses that nodes held.

    held = assigned + cooling + idle at every instant; primary (the address each ENI is born
    with, which no pod can have) comes on top.
    """

    held: Spread
    assigned: Spread
    cooling: Spread
    idle: Spread
    primary: Spread

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "held": self.held.as_dict(),
            "assigned": self.assigned.as_dict(),
            "cooling": self.cooling.as_dict(),
            "idle": self.idle.as_dict(),
            "primary": self.primary.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class SubnetLow:
    """How far a subnet ran down: fewest free addresses (at `at_s`), fewest free /28s.

    None where nothing was taken from the subnet or given back.
    """

    lowest_free: int | None
    lowest_free_prefixes: int | None
    at_s: float | None

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "lowest_free": self.lowest_free,
            "lowest_free_prefixes": self.lowest_free_prefixes,
            "at_s": _rounded(self.at_s),
        }


@dataclass(frozen=True, slots=True)
class Ec2Calls:
    """Attempts of EC2 calls; reads of the instance metadata are no EC2 calls, and apart.

    `mutating` counts attempts of APIs that change something, `throttled` attempts that ended
    in RequestLimitExceeded, `errors` attempts by EC2's error code (throttled ones included).
    """

    by_api: Mapping[str, int]
    errors: Mapping[str, int]
    total: int
    mutating: int
    throttled: int
    throttled_share: float
    metadata_reads: int

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "total": self.total,
            "mutating": self.mutating,
            "throttled": self.throttled,
            "throttled_share": _rounded(self.throttled_share),
            "by_api": dict(self.by_api),
            "errors": dict(self.errors),
            "metadata_reads": self.metadata_reads,
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run and what was run.

    pods = served + waiting + evicted + unschedulable; `present` had their addresses before zero and
    are not among them. The evicted ones lost their node before they had an address (another pod
    took the place of each). `wait_s` is over the pods that a node took; those without an address
    count with the wait they have had so far, so that a pod that never gets one cannot improve a
    quantile. The two shares are of pods whose first ADD found an
    address at once: among served pods, and among all pods of the trace.
    `churn_pairs` counts addresses asked for within ten minutes after the same node had given
    as many back.
    """

    pods: int
    served: int
    waiting: int
    unschedulable: int
    unschedulable_by_resource: Mapping[str, int]
    wait_s: Quantiles
    at_once_of_served: float | None
    at_once_of_all: float | None
    refusals: Mapping[str, int]
    refused_pods: int
    addresses: Addresses
    utilisation: float | None
    subnets: Mapping[str, SubnetLow]
    ec2_calls: Ec2Calls
    churn_pairs: int
    behaviour: str
    settings: Mapping[str, str]
    instance: str
    nodes: int
    seed: int
    trace: str
    trace_notes: tuple[str, ...]
    warnings: tuple[str, ...]
    scenario: Mapping[str, str]
    end_s: float
    command: tuple[str, ...] = ()
    present: int = 0
    evicted: int = 0

    @property
    def taken_mean(self) -> float:
        """Return the addresses taken out of the subnets on average, ENI primaries included."""
        return self.addresses.held.mean + self.addresses.primary.mean

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form: stable order, rounded to microseconds and millionths, no NaN."""
        return {
            "pods": self.pods,
            "present_at_start": self.present,
            "served": self.served,
            "waiting": self.waiting,
            "unschedulable": self.unschedulable,
            "evicted": self.evicted,
            "unschedulable_by_resource": dict(self.unschedulable_by_resource),
            "wait_s": self.wait_s.as_dict(),
            "served_without_waiting": {
                "of_served": _rounded(self.at_once_of_served),
                "of_all": _rounded(self.at_once_of_all),
            },
            "refusals": dict(self.refusals),
            "refused_pods": self.refused_pods,
            "addresses": self.addresses.as_dict(),
            "utilisation": _rounded(self.utilisation),
            "subnets": {cidr: low.as_dict() for cidr, low in self.subnets.items()},
            "ec2_calls": self.ec2_calls.as_dict(),
            "enis": {
                "mean": _rounded(self.addresses.primary.mean),
                "max": self.addresses.primary.max,
            },
            "churn_pairs": self.churn_pairs,
            "behaviour": self.behaviour,
            "settings": dict(self.settings),
            "instance": self.instance,
            "nodes": self.nodes,
            "seed": self.seed,
            "trace": self.trace,
            "trace_notes": list(self.trace_notes),
            "warnings": list(self.warnings),
            "scenario": dict(self.scenario),
            "command": list(self.command),
            "end_s": _rounded(self.end_s),
        }


def _rounded(value: float | None) -> float | None:
    """Cut the last digits, which are noise of adding up, so that figures can be compared."""
    return None if value is None else round(value, 6)
