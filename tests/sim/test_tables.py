"""Figures as text: units, signs and sentences."""

import dataclasses

import pytest

from sim import tables
from sim.summary import Addresses, Ec2Calls, Quantiles, Spread, SubnetLow, Summary


def run(**changes: object) -> Summary:
    """Describe a run in which every row has something to say."""
    values: dict[str, object] = {
        "pods": 1010,
        "served": 1000,
        "waiting": 3,
        "unschedulable": 7,
        "unschedulable_by_resource": {"cpu": 5, "memory": 2},
        "wait_s": Quantiles(0.0, 0.0, 12.5, 754.0),
        "at_once_of_served": 0.984,
        "at_once_of_all": 0.974,
        "refusals": {"subnet_full": 20, "pool_empty": 4},
        "refused_pods": 12,
        "addresses": Addresses(
            held=Spread(210.4, 240, 260),
            assigned=Spread(97.0, 110, 120),
            cooling=Spread(3.25, 9, 12),
            idle=Spread(110.15, 130, 150),
            primary=Spread(20.0, 20, 20),
        ),
        "utilisation": 0.461,
        "subnets": {
            "10.0.0.0/24": SubnetLow(5, 0, 90.0),
            "10.0.1.0/24": SubnetLow(None, None, None),
        },
        "ec2_calls": Ec2Calls(
            {"AssignPrivateIpAddresses": 90, "DescribeSubnets": 10}, {}, 100, 90, 4, 0.04, 0
        ),
        "churn_pairs": 1,
        "behaviour": "upstream",
        "settings": {"WARM_IP_TARGET": "5", "MINIMUM_IP_TARGET": "0", "WARM_ENI_TARGET": "1"},
        "instance": "m5.large",
        "nodes": 10,
        "seed": 7,
        "trace": "my trace.csv",
        "trace_notes": (),
        "warnings": (),
        "scenario": {"placement": "spread"},
        "end_s": 86400.0,
    }
    return Summary(**(values | changes))  # type: ignore[arg-type]


def test_headline() -> None:
    """What was held for what, how long pods waited, who was refused and why, who was left."""
    assert tables.headline(run()) == (
        "10 × m5.large held 210 addresses on average for 97 assigned (46 %); 99 % of pods had "  # noqa: RUF001
        "one within 12.5 s; 12 pods were refused at first, mostly since the subnet had no free "
        "address left; 3 pods were still waiting at the end; 7 pods fitted no node."
    )


def test_headline_of_a_run_without_trouble() -> None:
    """The share that had an address at once stands where nobody waited for long."""
    calm = run(
        wait_s=Quantiles(0.0, 0.0, 0.0, 2.0),
        refusals={},
        refused_pods=0,
        waiting=0,
        unschedulable=0,
        at_once_of_served=0.9999,
    )
    assert tables.headline(calm).endswith("; > 99.9 % of pods had one at once; no pod was refused.")
    single = tables.headline(run(refusals={"max_pods": 1}, refused_pods=1))
    assert "1 pod was refused at first, since the node already had as many pods" in single


def test_summary_rows() -> None:
    """Each figure with its unit, parts indented below their whole."""
    rows = dict(tables.summary_rows(run()))
    assert rows["pods"] == "1,010 = 1,000 served + 3 waiting + 7 unschedulable"
    assert rows["  unschedulable, short of"] == "cpu 5, memory 2"
    assert rows["served without waiting"] == "98.4 % of those served, 97.4 % of all"
    assert rows["wait for an address"] == "p50 0 s · p90 0 s · p99 12.5 s · max 12 min 34 s"
    assert rows["refused ADDs"] == "24 (12 pods): subnet_full 20, pool_empty 4"
    assert rows["addresses held"] == "mean 210 · p95 240 · max 260"
    assert rows["  cooling"] == "mean 3.25 · p95 9 · max 12"
    assert rows["subnet 10.0.0.0/24 at its lowest"] == "5 free, after 1 min 30 s"
    assert rows["subnet 10.0.1.0/24 at its lowest"] == "not touched"
    assert rows["EC2 calls"] == "100, of these 90 mutating"
    assert rows["  throttled"] == "4 (4.0 %)"
    assert rows["given back and asked for again"] == "1 address"


def test_comparison_marks_the_better() -> None:
    """Fewer addresses are better, more use of them too; equal figures are not marked."""
    other = run(
        addresses=Addresses(
            held=Spread(157.8, 200, 220),
            assigned=Spread(98.0, 110, 120),
            cooling=Spread(3.25, 9, 12),
            idle=Spread(56.55, 80, 90),
            primary=Spread(20.0, 20, 20),
        ),
        utilisation=0.62,
        wait_s=Quantiles(0.0, 0.0, 15.0, None),
    )
    rows = {row[0]: row[1:] for row in tables.comparison_rows(run(), other)}
    minus = tables.MINUS
    assert rows["addresses held, mean"] == ("210", "158 ✓", f"{minus}52.6 ({minus}25 %)")
    assert rows["utilisation"] == ("46 %", "62 % ✓", "+16 points")
    assert rows["wait, p99"] == ("12.5 s ✓", "15 s", "+2.5 s (+20 %)")
    assert rows["wait, longest"] == ("12 min 34 s", tables.NONE, "")
    assert rows["  assigned, mean"] == ("97", "98", "+1 (+1 %)")
    assert rows["ENIs, max"] == ("20", "20", "same")


def test_noise_is_not_marked() -> None:
    """Differences under 1 %, and free /28s where nobody wants any, make nothing better."""
    a = run(churn_pairs=1000, subnets={"10.0.0.0/24": SubnetLow(50, 3, 0.2)}, at_once_of_all=0.974)
    b = run(churn_pairs=1009, subnets={"10.0.0.0/24": SubnetLow(51, 4, 0.2)}, at_once_of_all=0.98)
    rows = {row.label: row for row in tables.comparison(a, b)}
    assert rows["given back and asked for again"].better == ""
    assert rows["served without waiting"].better == ""
    assert rows["lowest free in 10.0.0.0/24"].better == "b"
    assert "  free /28s" not in rows
    for wanting in (
        {"settings": {"ENABLE_PREFIX_DELEGATION": "true"}},
        {"scenario": {tables.RESERVATIONS: "1"}},
    ):
        with_prefixes = dataclasses.replace(a, **wanting)  # type: ignore[arg-type]
        rows = {row.label: row for row in tables.comparison(with_prefixes, b)}
        assert rows["  free /28s"].better == "b"


def test_limits_given_by_hand() -> None:
    """They are told in words, and can be run again."""
    by_hand = run(instance="3 ENIs x 10 addresses", nodes=1)
    assert tables.headline(by_hand).startswith("1 node (3 ENIs × 10 addresses) held 210 ")  # noqa: RUF001
    assert "--max-enis 3 --ips-per-eni 10 --nodes 1" in tables.run_again(by_hand)


def test_what_was_so_from_the_start() -> None:
    """A warm node's addresses are gone before the trace begins."""
    rows = dict(tables.summary_rows(run(subnets={"10.0.0.0/24": SubnetLow(5, 0, 0.195)})))
    assert rows["subnet 10.0.0.0/24 at its lowest"] == "5 free, from the start"


def test_runs_are_told_apart_by_what_rules() -> None:
    """A target that is off is not what a run is called by."""
    eni = run(settings={"WARM_IP_TARGET": "0", "MINIMUM_IP_TARGET": "0", "WARM_ENI_TARGET": "1"})
    assert tables.told_apart(run(), eni) == ("WARM_IP_TARGET=5", "WARM_ENI_TARGET=1")
    assert tables.told_apart(run(), run(settings={})) == (
        "WARM_IP_TARGET=5 WARM_ENI_TARGET=1",
        "WARM_IP_TARGET not set",
    )
    assert tables.told_apart(run(), run(behaviour="native")) == (
        "behaviour=upstream",
        "behaviour=native",
    )
    assert tables.told_apart(run(), run()) == ("the same settings", "the same settings")


def test_commands_to_run_again() -> None:
    """Words are quoted for the shell; what two runs share is said once."""
    start = "'my trace.csv' --instance m5.large --nodes 10 --subnet 10.0.0.0/24"
    assert tables.run_again(run()) == (
        f"warmbench replay {start} --subnet 10.0.1.0/24 --seed 7 --behaviour upstream "
        "--set WARM_IP_TARGET=5 --set MINIMUM_IP_TARGET=0 --set WARM_ENI_TARGET=1"
    )
    other = run(settings={"WARM_IP_TARGET": "9", "MINIMUM_IP_TARGET": "12", "WARM_ENI_TARGET": "1"})
    command = (
        f"warmbench compare {start} --subnet 10.0.1.0/24 --seed 7 --behaviour upstream "
        "--set WARM_ENI_TARGET=1 --a WARM_IP_TARGET=5,MINIMUM_IP_TARGET=0 "
        "--b WARM_IP_TARGET=9,MINIMUM_IP_TARGET=12"
    )
    assert tables.compare_again(run(), other) == [command]
    assert len(tables.compare_again(run(), run(behaviour="native"))) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 s"),
        (0.0004, "0 s"),
        (0.9994, "999 ms"),
        (59.94, "59.9 s"),
        (60.0, "1 min"),
        (3599.6, "1 h"),
        (3600.0, "1 h"),
        (86400.0, "24 h"),
        (172_800.0, "2 d"),
        (59.97, "1 min"),
        (-90.0, f"{tables.MINUS}1 min 30 s"),
        (None, tables.NONE),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    """No unit overflows, no zero part is shown."""
    assert tables.seconds(value) == text


def test_share_is_never_all_or_nothing_by_rounding() -> None:
    """Nearly all is not all."""
    texts = [tables.share(value) for value in (1.0, 0.999999, 0.95, 0.0, 1e-9, 0.001, None)]
    assert texts == ["100 %", "> 99.9 %", "95 %", "0 %", "< 0.1 %", "0.1 %", tables.NONE]
    assert tables.points(0.5, 0.5004) == "0"
    assert tables.points(0.0, 0.00005) == "+0.005 points"
