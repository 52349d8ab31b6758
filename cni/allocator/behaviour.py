"""Timings and choices of an allocator, as data: two presets, NATIVE and UPSTREAM.

UPSTREAM reproduces amazon-vpc-cni-k8s v1.23 (`pkg/ipamd/ipamd.go` and `datastore/`), so that
the workbench predicts the plug-in that most people run. NATIVE is the default of our own
daemon. Whatever ipamd does and we would not is one field here.
"""

from dataclasses import dataclass
from enum import Enum

INFINITE = float("inf")


class Order(Enum):
    """Which ENI and address the next sandbox gets."""

    PACKED = "packed"
    """Lowest device index first while there is surplus, so that ENIs empty; otherwise the least
    loaded ENI (the VPC resolver's packet limit is per ENI); the address free longest."""

    SHUFFLED = "shuffled"
    """By an emulated Go map: a random start among slots of eight, then in ring order."""


@dataclass(frozen=True, slots=True)
class RecipeChoices:
    """How actions become EC2 calls."""

    describes_first: bool
    """Ask DescribeSubnets and DescribeInstances before every attach, as upstream does; else the
    node's own knowledge serves, and subnets are asked for once the primary ENI's is dry."""

    retries_with_one: bool
    """After a failed assign ask for exactly one block (upstream); else halve while the subnet
    is too full for the whole count."""

    visible_polls: int
    """Polls of the metadata before a new ENI counts as failed."""

    visible_first_s: float
    visible_factor: float
    visible_max_s: float
    visible_jitter: float
    """Pauses between those polls: first, growth, limit, and random share on top."""

    detach_settle_s: float
    """Pause between detaching and the first try to delete."""

    delete_tries: int
    delete_first_s: float
    """Tries to delete a detached ENI; pauses double from the first."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one allocator does when, beyond its warm target and limits."""

    name: str

    # When it looks.
    tick_s: float
    """Period of the pool loop (upstream sleeps, so a slow call shifts later ticks); 0 acts on
    events."""

    tick_phase_s: float
    """First tick after the start-up refill."""

    gather_s: float
    """How long changes gather before a refill or a removal, where nobody waits."""

    gather_urgent_s: float
    """The same where an ADD waits or nothing is free: just enough to take a burst in at once."""

    gather_throttled_s: float
    """The same, at most, after EC2 refused the request rate."""

    # How much it does at once.
    parallel: bool
    """Actions side by side, one per ENI; else one at a time, each tick one step (ipamd)."""

    attaches_in_flight: int
    """Attaches side by side."""

    # What it counts and spares.
    cooling_is_available: bool
    """Cooling addresses count as available (`data_store.go:911`); else only while they end
    cooling before a refill could arrive."""

    refill_lead_s: float
    """How long a refill takes to arrive, for that comparison."""

    spares_cooling: bool
    """Never give a cooling address back to EC2; upstream does (`data_store.go:1562`)."""

    order: Order

    # When it shrinks.
    shrink_period_s: float
    """At least this between two removals (`ipamd.go:64`)."""

    surplus_hold_s: float
    """How long surplus must have lasted before it goes."""

    churn_turns: int
    churn_hold_s: float
    """The same, where the number of pods turned so often within that time."""

    regret_s: float
    """Blocks asked for again this soon after a removal double `surplus_hold_s`."""

    surplus_hold_max_s: float
    """Limit of that doubling."""

    eni_min_age_s: float
    """An ENI younger than this is not detached (`data_store.go:38`)."""

    # When EC2 says no.
    backoff_s: float
    """Pause of growth after the subnet ran dry (`ipamd.go:167`)."""

    backoff_after_assign: bool
    """A dry subnet met by an assign starts the pause too; upstream forgets to when subnet
    discovery is on and no ENI fits (`ipamd.go:1140`)."""

    failure_backoff_s: float
    """First pause after any other failure, doubling to `backoff_s`; 0 retries each tick."""

    throttled_backoff_s: float
    """The longest pause after EC2 refused the request rate, halved or half as long again by chance:
    of nodes that pause alike, the first empty the bucket, and the rest of it runs over. Measured
    with 500 nodes on one account: the last pod is served as soon as the bucket allows."""

    learnt_limit_s: float
    """How long an ENI or address limit that EC2 enforced is remembered; 0 runs into it again
    at the next tick, as upstream does."""

    quarantine_s: float
    """How long a removed block is disbelieved where a description still shows it."""

    # What the driver does for it.
    add_wait_s: float
    """How long an ADD waits for an address on its way before it is refused; 0 refuses at
    once and leaves the pod to the kubelet's retry, as upstream does."""

    reconcile_s: float
    """Period at which the driver asks for a comparison with the cloud."""

    recipe: RecipeChoices


UPSTREAM = Behaviour(
    name="upstream",
    tick_s=5.0,
    tick_phase_s=2.5,
    gather_s=0.0,
    gather_urgent_s=0.0,
    gather_throttled_s=0.0,
    parallel=False,
    attaches_in_flight=1,
    cooling_is_available=True,
    refill_lead_s=0.0,
    spares_cooling=False,
    order=Order.SHUFFLED,
    shrink_period_s=30.0,
    surplus_hold_s=0.0,
    churn_turns=0,
    churn_hold_s=0.0,
    regret_s=0.0,
    surplus_hold_max_s=0.0,
    eni_min_age_s=60.0,
    backoff_s=120.0,
    backoff_after_assign=False,
    failure_backoff_s=0.0,
    throttled_backoff_s=0.0,
    learnt_limit_s=0.0,
    quarantine_s=60.0,
    add_wait_s=0.0,
    reconcile_s=60.0,
    recipe=RecipeChoices(
        describes_first=True,
        retries_with_one=True,
        visible_polls=12,
        visible_first_s=0.1,
        visible_factor=2.0,
        visible_max_s=60.0,
        visible_jitter=0.15,
        detach_settle_s=2.0,
        delete_tries=12,
        delete_first_s=0.5,
    ),
)
"""amazon-vpc-cni-k8s v1.23; each value is read in its source or executed."""

NATIVE = Behaviour(
    name="native",
    tick_s=0.0,
    tick_phase_s=0.0,
    gather_s=5.0,
    gather_urgent_s=0.02,
    gather_throttled_s=60.0,
    parallel=True,
    attaches_in_flight=4,
    cooling_is_available=False,
    refill_lead_s=2.0,
    spares_cooling=True,
    order=Order.PACKED,
    shrink_period_s=30.0,
    surplus_hold_s=600.0,
    churn_turns=2,
    churn_hold_s=3600.0,
    regret_s=600.0,
    surplus_hold_max_s=14_400.0,
    eni_min_age_s=60.0,
    backoff_s=120.0,
    backoff_after_assign=True,
    failure_backoff_s=5.0,
    throttled_backoff_s=30.0,
    learnt_limit_s=3600.0,
    quarantine_s=60.0,
    add_wait_s=60.0,
    reconcile_s=60.0,
    recipe=RecipeChoices(
        describes_first=False,
        retries_with_one=False,
        visible_polls=105,
        visible_first_s=0.1,
        visible_factor=1.15,
        visible_max_s=2.0,
        visible_jitter=0.0,
        detach_settle_s=3.0,
        delete_tries=12,
        delete_first_s=1.0,
    ),
)
"""The default of our own daemon."""

PRESETS = {preset.name: preset for preset in (UPSTREAM, NATIVE)}
