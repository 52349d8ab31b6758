"""The daemon's numbers for Prometheus: upstream's names and labels, and ours beside them.

Names, types and labels of upstream are those of v1.23 (`utils/prometheusmetrics`), so that its
dashboards and alerts work. Where its series are never removed (`assigned_ip_per_cidr`,
`assigned_ip_per_eni`) ours end with their block or ENI: what the pool holds is looked up when
somebody scrapes, and an ADD pays for nothing but a counter. There is no global registry.
"""

import platform
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    Summary,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cni.allocator.errors import Cause
from cni.allocator.model import BlockKind
from cni.daemon.exposition import CONTENT_TYPE, exposition
from cni.daemon.looks import PoolLook, assigned_by_block

PREFIX = "awscni_"

_WAIT_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 45, 60, 90, 120)
_ADD_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ACTION_S = (0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300)
_SYNC_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
_START_S = (0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)


class _Upstream:
    """What upstream counts, by its names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, text, labels, registry=registry)

        self.errors = counter("ipamd_error_count", "Actions that failed", "fn")
        self.reconciles = counter("reconcile_count", "Times EC2 was asked what it shows", "fn")
        self.adds = counter("add_ip_req_count", "ADDs")
        self.dels = counter("del_ip_req_count", "DELs, by what they came from", "reason")
        self.api_errors = counter(
            "aws_api_error_count", "Calls to AWS that failed, by its code", "api", "error"
        )
        self.metadata_errors = counter(
            "aws_utils_error_count", "Reads of the instance metadata that failed", "fn", "error"
        )
        self.calls = counter("ec2api_req_count", "Calls to EC2, every attempt counted", "fn")
        self.call_errors = counter("ec2api_error_count", "Calls to EC2 that failed", "fn")
        self.lost_enis = counter("force_removed_enis", "ENIs that vanished while in use")
        self.lost_addresses = counter("force_removed_ips", "Addresses that vanished while held")
        self.not_recovered = counter(
            "unrecovered_checkpoint_entries",
            "Entries of the ledger whose address is gone",
        )
        self.none_free = counter("no_available_ip_addresses", "ADDs refused for want of an address")
        self.rules_set = counter("connmark_reconcile", "Times the host's rules were set", "result")
        self.actions = Gauge(
            PREFIX + "ipamd_action_inprogress", "Actions in flight", ["fn"], registry=registry
        )
        self.rules_by = Gauge(
            PREFIX + "connmark_backend",
            "1 for what keeps rules",
            ["backend"],
            registry=registry,
        )
        # prometheus_client's Summary has no quantiles, and upstream's are empty: its
        # SummaryOpts name no objectives. Both expose _sum and _count.
        self.latency = Summary(
            PREFIX + "aws_api_latency_ms",
            "Milliseconds a call to AWS took; error is true or false",
            ["api", "error", "status"],
            registry=registry,
        )
        self.start = Histogram(
            PREFIX + "ipamd_startup_duration_seconds",
            "Seconds from the start of the process until it could serve",
            ["success", "with_api_server", "failure_reason"],
            registry=registry,
            buckets=_START_S,
        )
        self.node_set_up = Histogram(
            PREFIX + "ipamd_node_initialization_duration_seconds",
            "Seconds in which the node's network and ENIs were set up",
            ["success"],
            registry=registry,
            buckets=_START_S,
        )
        for result in ("success", "error"):
            self.rules_set.labels(result)


class _Ours:
    """What upstream does not tell."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(PREFIX + name, text, labels, registry=registry, buckets=buckets)

        refused = Counter(
            PREFIX + "add_refused",
            "ADDs that found no address, by cause; the CNI error and the log name the same cause",
            ["cause"],
            registry=registry,
        )
        # Every cause exists from the start, so that an alert on an increase misses no first one.
        self.refused = {cause: refused.labels(cause.value) for cause in Cause}
        self.waits = histogram(
            "add_wait_seconds", "Seconds ADDs waited in line for an address, served or not", _WAIT_S
        )
        self.adds = histogram(
            "add_duration_seconds", "Seconds of ADDs that succeeded, waiting included", _ADD_S
        )
        self.dels = histogram("del_duration_seconds", "Seconds of DELs that succeeded", _ADD_S)
        self.actions = histogram(
            "action_duration_seconds", "Seconds from action to outcome", _ACTION_S, "kind"
        )
        self.failures = Counter(
            PREFIX + "action_failures",
            "Actions that failed, by the reason the allocator acts on",
            ["kind", "reason"],
            registry=registry,
        )
        self.syncs = histogram(
            "ledger_sync_seconds", "Seconds in which the ledger was written and synced", _SYNC_S
        )
        self.ec2_age = Gauge(
            PREFIX + "ec2_last_success_age_seconds",
            "Seconds since a call to EC2 succeeded; since the first scrape where none has",
            registry=registry,
        )


class Metrics:
    """Counts what the daemon's parts tell it; one instance, one registry.

    Each method takes constant time. All are called on the daemon's event loop.
    """

    def __init__(self, now: Callable[[], float], *, version: str) -> None:
        """Start at zero; `now` reads a monotonic clock when somebody scrapes."""
        self._now = now
        self._registry = CollectorRegistry()
        self._upstream = _Upstream(self._registry)
        self._ours = _Ours(self._registry)
        self._pool = _PoolCollector()
        self._registry.register(self._pool)
        self._last_success: float | None = None
        self._ours.ec2_age.set_function(self._ec2_age)
        build = Gauge(
            PREFIX + "build_info",
            "Always 1. Upstream's label goversion is absent, which Prometheus takes for empty",
            ["version", "pythonversion"],
            registry=self._registry,
        )
        build.labels(version, platform.python_version()).set(1)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    # Commands.

    def add_request(self) -> None:
        """Hear of an ADD."""
        self._upstream.adds.inc()

    def del_request(self, reason: str) -> None:
        """Hear of a DEL and what it came from: one of few words, never a name or an id."""
        self._upstream.dels.labels(reason).inc()

    def refused(self, cause: Cause) -> None:
        """Hear that an ADD found no address."""
        self._ours.refused[cause].inc()
        self._upstream.none_free.inc()

    def waited(self, seconds: float) -> None:
        """Hear how long an ADD waited in line, served or not."""
        self._ours.waits.observe(seconds)

    def added(self, seconds: float) -> None:
        """Hear how long an ADD took that succeeded."""
        self._ours.adds.observe(seconds)

    def deleted(self, seconds: float) -> None:
        """Hear how long a DEL took that succeeded."""
        self._ours.dels.observe(seconds)

    # The cloud.

    def api_call(self, api: str, seconds: float, code: str) -> None:
        """Hear of one attempt of a call to EC2; `code` is empty where it succeeded.

        EC2's code says more than an HTTP status, which is 200 or empty: upstream leaves it empty
        too where it has none (`awsReqStatus`).
        """
        upstream = self._upstream
        failed = bool(code)
        upstream.calls.labels(api).inc()
        upstream.latency.labels(api, str(failed).lower(), "" if failed else "200").observe(
            seconds * 1000
        )
        if failed:
            upstream.call_errors.labels(api).inc()
            upstream.api_errors.labels(api, code).inc()
        else:
            self._last_success = self._now()

    def metadata_failed(self, what: str, code: str) -> None:
        """Hear that a read of the instance metadata failed: few words each, no ids."""
        self._upstream.metadata_errors.labels(what, code).inc()

    def action_started(self, kind: str) -> None:
        """Hear that an action of this kind was handed out."""
        self._upstream.actions.labels(kind).inc()

    def action_ended(self, kind: str, seconds: float, failure: str) -> None:
        """Hear that it ended, and why it failed: empty where it did not."""
        self._upstream.actions.labels(kind).dec()
        self._ours.actions.labels(kind).observe(seconds)
        if failure:
            self._upstream.errors.labels(kind).inc()
            self._ours.failures.labels(kind, failure).inc()
        elif kind == "DescribeEnis":
            self._upstream.reconciles.labels(kind).inc()

    def vanished(self, *, enis: int, addresses: int) -> None:
        """Hear of ENIs and addresses that EC2 shows no more while sandboxes hold them."""
        self._upstream.lost_enis.inc(enis)
        self._upstream.lost_addresses.inc(addresses)

    # The node.

    def rules_set(self, backend: str, *, success: bool) -> None:
        """Hear that the host's rules were set, by `nftables` or by `iptables`."""
        self._upstream.rules_by.clear()
        self._upstream.rules_by.labels(backend).set(1)
        self._upstream.rules_set.labels("success" if success else "error").inc()

    def ledger_synced(self, seconds: float) -> None:
        """Hear how long a write to the ledger took, its sync included."""
        self._ours.syncs.observe(seconds)

    # Start.

    def not_recovered(self, entries: int) -> None:
        """Hear of entries of the ledger whose address is not the node's any more."""
        self._upstream.not_recovered.inc(entries)

    def node_set_up(self, seconds: float, *, success: bool) -> None:
        """Hear how long it took to set up the node's network and ENIs."""
        self._upstream.node_set_up.labels(str(success).lower()).observe(seconds)

    def started(self, seconds: float, *, success: bool, failure: str = "") -> None:
        """Hear how long the start took, and in a word why it failed; no API server is asked."""
        self._upstream.start.labels(str(success).lower(), "false", failure).observe(seconds)

    # Scrapes.

    def watch_pool(self, look: Callable[[], PoolLook]) -> None:
        """Look at the pool with every scrape from now on; before, its gauges have no value."""
        self._pool.look = look

    def exposition(self) -> tuple[bytes, str]:
        """Return all numbers in Prometheus' text format 0.0.4, and its content type."""
        return exposition(self._registry.collect()), CONTENT_TYPE

    def _ec2_age(self) -> float:
        if self._last_success is None:
            # Made before the loop whose clock it reads, this knows no other beginning.
            self._last_success = self._now()
        return self._now() - self._last_success


class _PoolCollector(Collector):
    """Turns a look at the pool into gauges when somebody scrapes."""

    def __init__(self) -> None:
        self.look: Callable[[], PoolLook] | None = None

    def collect(self) -> Iterator[Metric]:
        look = self.look() if self.look is not None else None
        yield from _totals(look)
        yield from _parts(look)


def _totals(look: PoolLook | None) -> Iterator[Metric]:
    """Yield the pool in single numbers: upstream's gauges, then ours."""
    for name, text, read in _TOTALS:
        family = GaugeMetricFamily(PREFIX + name, text)
        if look is not None:
            family.add_metric([], read(look))
        yield family
    states = GaugeMetricFamily(PREFIX + "pool_addresses", "Addresses by state", labels=["state"])
    if look is not None:
        counts = look.counts
        for state, addresses in (
            ("free", look.free),
            ("assigned", counts.assigned),
            ("cooling", counts.cooling),
            ("leaving", look.leaving),
        ):
            states.add_metric([state], addresses)
    yield states


_TOTALS: tuple[tuple[str, str, Callable[[PoolLook], float]], ...] = (
    ("eni_max", "ENIs the node can have of ours", lambda look: look.enis_max),
    ("ip_max", "Addresses the node can have on them", lambda look: look.addresses_max),
    ("eni_allocated", "ENIs attached that are ours", lambda look: len(look.enis)),
    ("total_ip_addresses", "Addresses in the pool", lambda look: look.counts.addresses_total),
    ("assigned_ip_addresses", "Addresses sandboxes hold", lambda look: look.counts.assigned),
    (
        "total_ipv4_prefixes",
        "Prefixes in the pool",
        lambda look: look.counts.blocks_total if look.kind is BlockKind.PREFIX else 0,
    ),
    ("adds_waiting", "ADDs that wait in line for an address", lambda look: look.waiting),
    ("ledger_holdings", "Sandboxes in the ledger", lambda look: look.holdings),
)


def _parts(look: PoolLook | None) -> Iterator[Metric]:
    """Yield the pool by ENI, block and subnet: a series for each that is there now."""
    per_block = GaugeMetricFamily(
        PREFIX + "assigned_ip_per_cidr", "Addresses sandboxes hold of a block", labels=["cidr"]
    )
    per_eni = GaugeMetricFamily(
        PREFIX + "assigned_ip_per_eni", "Addresses sandboxes hold on an ENI", labels=["eni"]
    )
    on_eni = GaugeMetricFamily(
        PREFIX + "eni_addresses",
        "Addresses on an ENI, those about to leave among them; its primary one is not",
        labels=["eni", "device_index", "subnet"],
    )
    in_subnet = GaugeMetricFamily(
        PREFIX + "subnet_free_addresses",
        "Addresses that were free in a subnet when EC2 was last asked",
        labels=["subnet"],
    )
    if look is not None:
        held = assigned_by_block(look)
        for eni in look.enis:
            blocks = eni.blocks
            for block in blocks:
                per_block.add_metric([str(block)], len(held[block]))
            per_eni.add_metric([eni.eni_id], sum(len(held[block]) for block in blocks))
            subnet = look.subnets.get(eni.eni_id, "")
            on_eni.add_metric(
                [eni.eni_id, str(eni.device_index), subnet],
                sum(block.num_addresses for block in blocks),
            )
        for subnet, addresses in sorted(look.free_in_subnets.items()):
            in_subnet.add_metric([subnet], addresses)
    yield from (per_block, per_eni, on_eni, in_subnet)
