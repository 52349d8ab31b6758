"""The numbers for Prometheus: names, types, labels, and what they say."""

import time
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from cni.allocator.errors import Cause
from cni.allocator.model import AttachedEni, BlockKind, EniId
from cni.daemon.exposition import CONTENT_TYPE
from cni.daemon.looks import PoolLook
from cni.daemon.metrics import Metrics
from tests.daemon.looked_at import FIRST, SECOND, a_pool, an_assignment, an_eni

# Upstream's metrics, as upstream.md 4.1 lists them: name without the prefix, type, labels.
UPSTREAM = [
    ("ipamd_error_count", "counter", {"fn"}),
    ("ipamd_action_inprogress", "gauge", {"fn"}),
    ("eni_max", "gauge", set()),
    ("ip_max", "gauge", set()),
    ("reconcile_count", "counter", {"fn"}),
    ("add_ip_req_count", "counter", set()),
    ("del_ip_req_count", "counter", {"reason"}),
    ("aws_api_latency_ms", "summary", {"api", "error", "status"}),
    ("aws_api_error_count", "counter", {"api", "error"}),
    ("aws_utils_error_count", "counter", {"fn", "error"}),
    ("ec2api_req_count", "counter", {"fn"}),
    ("ec2api_error_count", "counter", {"fn"}),
    ("eni_allocated", "gauge", set()),
    ("total_ip_addresses", "gauge", set()),
    ("assigned_ip_addresses", "gauge", set()),
    ("total_ipv4_prefixes", "gauge", set()),
    ("force_removed_enis", "counter", set()),
    ("force_removed_ips", "counter", set()),
    ("assigned_ip_per_cidr", "gauge", {"cidr"}),
    ("assigned_ip_per_eni", "gauge", {"eni"}),
    ("no_available_ip_addresses", "counter", set()),
    (
        "ipamd_startup_duration_seconds",
        "histogram",
        {"success", "with_api_server", "failure_reason"},
    ),
    ("ipamd_node_initialization_duration_seconds", "histogram", {"success"}),
    ("connmark_backend", "gauge", {"backend"}),
    ("connmark_reconcile_total", "counter", {"result"}),
]
# Branch ENIs (security groups for pods) are not supported, so nothing could fail with them.
LEFT_OUT = {"pod_eni_error_count"}

OURS = [
    ("add_refused_total", "counter", {"cause"}),
    ("add_wait_seconds", "histogram", set()),
    ("add_duration_seconds", "histogram", set()),
    ("del_duration_seconds", "histogram", set()),
    ("action_duration_seconds", "histogram", {"kind"}),
    ("action_failures_total", "counter", {"kind", "reason"}),
    ("ledger_sync_seconds", "histogram", set()),
    ("ledger_holdings", "gauge", set()),
    ("ec2_last_success_age_seconds", "gauge", set()),
    ("pool_addresses", "gauge", {"state"}),
    ("adds_waiting", "gauge", set()),
    ("eni_addresses", "gauge", {"eni", "device_index", "subnet"}),
    ("subnet_free_addresses", "gauge", {"subnet"}),
    ("unrecovered_checkpoint_entries", "counter", set()),
    ("build_info", "gauge", {"version", "pythonversion"}),
]

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


class Time:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def metrics(now: Time | None = None) -> Metrics:
    """Return metrics that count from zero."""
    return Metrics(now or Time(), version="0.1.0")


def text_of(counted: Metrics) -> str:
    """Return what a scrape gets."""
    return counted.exposition()[0].decode()


def types_of(text: str) -> dict[str, str]:
    """Return the type of each name, as the lines say it."""
    lines = (line.split() for line in text.splitlines() if line.startswith("# TYPE "))
    return {name: kind for _, _, name, kind in lines}


def samples_of(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every number by its name as written and its labels."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        # Without the line that says its type, the parser leaves a name as it is.
        (family,) = text_string_to_metric_families(line + "\n")
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def value(text: str, name: str, /, **labels: str) -> float:
    """Return one number; KeyError where it is not there."""
    return samples_of(text)["awscni_" + name, frozenset(labels.items())]


def after_a_day() -> Metrics:
    """Return metrics that have heard of everything once."""
    counted = metrics()
    counted.add_request()
    counted.del_request("DEL")
    counted.refused(Cause.POOL_EMPTY)
    counted.waited(1.0)
    counted.added(0.02)
    counted.deleted(0.01)
    counted.api_call("AssignPrivateIpAddresses", 0.25, "")
    counted.api_call("AssignPrivateIpAddresses", 0.05, "RequestLimitExceeded")
    counted.metadata_failed("mac", "NotFound")
    counted.action_started("AddBlocks")
    counted.action_started("DescribeEnis")
    counted.action_ended("AddBlocks", 1.5, "throttled")
    counted.action_ended("DescribeEnis", 0.5, "")
    counted.vanished(enis=1, addresses=2)
    counted.rules_set("nftables", success=True)
    counted.ledger_synced(0.002)
    counted.not_recovered(3)
    counted.node_set_up(2.0, success=True)
    counted.started(4.0, success=True)
    look = a_pool(
        (an_eni(FIRST, 0, "10.0.0.10/32"),),
        (an_assignment("a", "10.0.0.10", FIRST, 0),),
        holdings=1,
        subnets={FIRST: "subnet-1"},
        free_in_subnets={"subnet-1": 250},
    )
    counted.watch_pool(lambda: look)
    return counted


@pytest.mark.parametrize(("name", "kind", "labels"), [*UPSTREAM, *OURS])
def test_names_types_and_labels_are_those_of_the_table(
    name: str, kind: str, labels: set[str]
) -> None:
    """A dashboard made for upstream finds every metric as it expects it, to the letter."""
    text = text_of(after_a_day())
    full = "awscni_" + name

    assert types_of(text)[full] == kind
    series = [
        dict(found)
        for (one, found) in samples_of(text)
        if one in {full + suffix for suffix in SUFFIXES.get(kind, ("",))}
    ]
    assert series, f"{full} has no series"
    assert all(set(found) - {"le"} == labels for found in series)


def test_nothing_of_ours_is_missing_from_the_table() -> None:
    """Whoever adds a metric writes it down, and what upstream has and we have not stays out."""
    known = {"awscni_" + name for name, _, _ in [*UPSTREAM, *OURS]}

    shown = {name for name in types_of(text_of(after_a_day())) if name.startswith("awscni_")}

    assert shown == known
    assert not {"awscni_" + name for name in LEFT_OUT} & shown


def test_a_scrape_parses_and_tells_its_format() -> None:
    """Prometheus' own parser reads it all, each family once, and process and Python are in it."""
    body, content_type = after_a_day().exposition()
    families = list(text_string_to_metric_families(body.decode()))

    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {"process_resident_memory_bytes", "python_info", "python_gc_collections"} <= set(names)
    assert all(family.documentation for family in families)
    assert body.endswith(b"\n")
    assert content_type == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_labels_are_escaped() -> None:
    """A text from outside cannot break the lines of others."""
    counted = metrics()
    counted.api_call("Api", 0.1, 'a"b\\c\nd')

    text = text_of(counted)

    assert 'error="a\\"b\\\\c\\nd"' in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (sample,) = families["awscni_aws_api_error_count"].samples
    assert sample.labels["error"] == 'a"b\\c\nd'


def test_every_cause_of_a_refused_add_is_there_from_the_start() -> None:
    """An alert on the first refusal needs a zero before it."""
    text = text_of(metrics())

    assert {value(text, "add_refused_total", cause=cause.value) for cause in Cause} == {0.0}


def test_a_refused_add_counts_for_its_cause_and_for_upstreams_number() -> None:
    """The cause is the same code that the CNI error has."""
    counted = metrics()

    counted.refused(Cause.SUBNET_FULL)
    counted.refused(Cause.SUBNET_FULL)
    counted.refused(Cause.THROTTLED)

    text = text_of(counted)
    assert value(text, "add_refused_total", cause="subnet_full") == 2
    assert value(text, "add_refused_total", cause="throttled") == 1
    assert value(text, "no_available_ip_addresses") == 3


def test_a_call_to_ec2_counts_once_in_each_of_upstreams_numbers() -> None:
    """Latency is in milliseconds, its labels are upstream's, and errors have EC2's code."""
    counted = metrics()

    counted.api_call("AssignPrivateIpAddresses", 0.25, "")
    counted.api_call("AssignPrivateIpAddresses", 0.75, "")
    counted.api_call("AssignPrivateIpAddresses", 0.1, "RequestLimitExceeded")

    text = text_of(counted)
    good = {"api": "AssignPrivateIpAddresses", "error": "false", "status": "200"}
    bad = {"api": "AssignPrivateIpAddresses", "error": "true", "status": ""}
    assert value(text, "aws_api_latency_ms_sum", **good) == 1000
    assert value(text, "aws_api_latency_ms_count", **good) == 2
    assert value(text, "aws_api_latency_ms_count", **bad) == 1
    assert value(text, "ec2api_req_count", fn="AssignPrivateIpAddresses") == 3
    assert value(text, "ec2api_error_count", fn="AssignPrivateIpAddresses") == 1
    assert (
        value(
            text,
            "aws_api_error_count",
            api="AssignPrivateIpAddresses",
            error="RequestLimitExceeded",
        )
        == 1
    )


def test_the_age_of_ec2s_last_answer_is_told() -> None:
    """It grows with every scrape and starts again with a call that succeeds, and only then."""
    now = Time()
    counted = metrics(now)
    now.seconds = 50.0
    assert value(text_of(counted), "ec2_last_success_age_seconds") == 0
    now.seconds = 60.0
    counted.api_call("DescribeNetworkInterfaces", 0.1, "RequestTimeout")
    assert value(text_of(counted), "ec2_last_success_age_seconds") == 10

    counted.api_call("DescribeNetworkInterfaces", 0.1, "")
    now.seconds = 63.0

    assert value(text_of(counted), "ec2_last_success_age_seconds") == 3


def test_an_action_is_in_flight_until_it_ends() -> None:
    """Failures are counted by upstream's name and, with their reason, by ours."""
    counted = metrics()
    counted.action_started("AttachEni")
    counted.action_started("AttachEni")

    counted.action_ended("AttachEni", 7.0, "eni_limit")

    text = text_of(counted)
    assert value(text, "ipamd_action_inprogress", fn="AttachEni") == 1
    assert value(text, "ipamd_error_count", fn="AttachEni") == 1
    assert value(text, "action_failures_total", kind="AttachEni", reason="eni_limit") == 1
    assert value(text, "action_duration_seconds_sum", kind="AttachEni") == 7

    counted.action_ended("AttachEni", 3.0, "")
    text = text_of(counted)
    assert value(text, "ipamd_action_inprogress", fn="AttachEni") == 0
    assert value(text, "ipamd_error_count", fn="AttachEni") == 1


def test_only_looking_at_ec2_counts_as_reconciling() -> None:
    """An ENI that is attached is no reconcile, and neither is a look that failed."""
    counted = metrics()

    for kind, failure in (("AttachEni", ""), ("DescribeEnis", "throttled"), ("DescribeEnis", "")):
        counted.action_started(kind)
        counted.action_ended(kind, 1.0, failure)

    text = text_of(counted)
    assert value(text, "reconcile_count", fn="DescribeEnis") == 1
    assert 'reconcile_count{fn="AttachEni"}' not in text


def test_the_other_backend_of_the_hosts_rules_goes() -> None:
    """Only what keeps the rules now has a series."""
    counted = metrics()

    counted.rules_set("iptables", success=False)
    counted.rules_set("nftables", success=True)

    text = text_of(counted)
    assert value(text, "connmark_backend", backend="nftables") == 1
    assert 'backend="iptables"' not in text
    assert value(text, "connmark_reconcile_total", result="error") == 1
    assert value(text, "connmark_reconcile_total", result="success") == 1


def test_a_pool_that_nobody_watches_yet_has_no_numbers() -> None:
    """Unknown is not zero: an alert on an empty pool must not fire while the daemon starts."""
    text = text_of(metrics())

    assert "# TYPE awscni_total_ip_addresses gauge" in text
    assert not [line for line in text.splitlines() if line.startswith("awscni_total_ip_addresses")]


def test_the_pool_is_told_in_upstreams_numbers_and_in_ours() -> None:
    """Limits leave out ENIs that are not ours; the four states add up to what is attached."""
    look = a_pool(
        (
            an_eni(FIRST, 0, "10.0.0.16/28"),
            an_eni(SECOND, 2, "10.0.1.16/28", "10.0.1.32/28"),
        ),
        (
            an_assignment("a", "10.0.0.17", FIRST, 0),
            an_assignment("b", "10.0.1.33", SECOND, 2),
            an_assignment("c", "10.0.1.47", SECOND, 2),
        ),
        kind=BlockKind.PREFIX,
        # One prefix is leaving.
        total=32,
        cooling=4,
        taken=1,
        waiting=5,
        holdings=3,
        subnets={FIRST: "10.0.0.0/24"},
        free_in_subnets={"subnet-1": 12},
    )
    counted = metrics()
    counted.watch_pool(lambda: look)

    text = text_of(counted)

    assert value(text, "eni_max") == 2
    assert value(text, "ip_max") == 2 * 9 * 16
    assert value(text, "eni_allocated") == 2
    assert value(text, "total_ip_addresses") == 32
    assert value(text, "assigned_ip_addresses") == 3
    assert value(text, "total_ipv4_prefixes") == 3
    assert value(text, "adds_waiting") == 5
    assert value(text, "ledger_holdings") == 3
    states = {"free": 25, "assigned": 3, "cooling": 4, "leaving": 16}
    assert {state: value(text, "pool_addresses", state=state) for state in states} == states
    assert value(text, "assigned_ip_per_cidr", cidr="10.0.1.16/28") == 0
    assert value(text, "assigned_ip_per_cidr", cidr="10.0.1.32/28") == 2
    assert value(text, "assigned_ip_per_eni", eni=FIRST) == 1
    assert value(text, "assigned_ip_per_eni", eni=SECOND) == 2
    assert value(text, "eni_addresses", eni=FIRST, device_index="0", subnet="10.0.0.0/24") == 16
    assert value(text, "eni_addresses", eni=SECOND, device_index="2", subnet="") == 32
    assert value(text, "subnet_free_addresses", subnet="subnet-1") == 12


def test_secondary_ips_are_no_prefixes() -> None:
    """Upstream's number of prefixes is 0 in the mode that has none."""
    counted = metrics()
    counted.watch_pool(lambda: a_pool((an_eni(FIRST, 0, "10.0.0.10/32"),)))

    text = text_of(counted)

    assert value(text, "total_ipv4_prefixes") == 0
    assert value(text, "ip_max") == 3 * 9


def test_series_end_with_their_block_and_eni() -> None:
    """Upstream keeps a series for every address it ever had (upstream.md 12, trap 19)."""
    looks = iter(
        [
            a_pool((an_eni(FIRST, 0, "10.0.0.10/32"), an_eni(SECOND, 1, "10.0.1.10/32"))),
            a_pool((an_eni(FIRST, 0, "10.0.0.11/32"),)),
        ]
    )
    counted = metrics()
    counted.watch_pool(lambda: next(looks))

    before, after = text_of(counted), text_of(counted)

    assert 'cidr="10.0.1.10/32"' in before
    assert f'eni="{SECOND}"' in before
    assert 'cidr="10.0.0.10/32"' not in after
    assert 'cidr="10.0.1.10/32"' not in after
    assert f'eni="{SECOND}"' not in after
    assert 'cidr="10.0.0.11/32"' in after


def test_an_add_looks_at_no_pool() -> None:
    """What an ADD tells costs the same on a full node as on an empty one."""
    looked = []
    counted = metrics()

    def look() -> PoolLook:
        looked.append(1)
        return a_pool()

    counted.watch_pool(look)
    counted.add_request()
    counted.waited(1.0)
    counted.added(0.5)
    counted.refused(Cause.POOL_EMPTY)
    assert looked == []

    text_of(counted)
    assert looked == [1]


def test_two_daemons_in_one_process_share_no_number() -> None:
    """Nothing is registered in prometheus_client's global registry, and nothing twice."""
    before = {family.name for family in REGISTRY.collect()}
    one, other = metrics(), metrics()

    one.add_request()

    assert value(text_of(one), "add_ip_req_count") == 1
    assert value(text_of(other), "add_ip_req_count") == 0
    assert {family.name for family in REGISTRY.collect()} == before


def test_a_full_node_is_scraped_in_a_fraction_of_a_second() -> None:
    """735 addresses on 15 ENIs, the most of any instance type, keep the loop for no time."""
    look = a_full_node()
    counted = metrics()
    counted.watch_pool(lambda: look)

    started = time.perf_counter()
    text = text_of(counted)
    seconds = time.perf_counter() - started

    assert text.count("awscni_assigned_ip_per_cidr{") == 15 * 49
    # It takes about 5 ms; a machine that is busy with other things may take its time.
    assert seconds < 0.5


def a_full_node() -> PoolLook:
    """Return a pool of 15 ENIs with 49 secondary IPs, all of them held."""
    enis = []
    held = []
    for index in range(15):
        hosts = list(islice(IPv4Network(f"10.0.{index}.0/24").hosts(), 10, 59))
        eni_id = EniId(f"eni-{index:017x}")
        blocks = tuple(IPv4Network(host) for host in hosts)
        enis.append(AttachedEni(eni_id, index, IPv4Address(f"10.0.{index}.1"), blocks))
        held += [an_assignment(f"{index}-{host}", str(host), eni_id, index) for host in hosts]
    return a_pool(tuple(enis), tuple(held))
