"""What a node holds under UPSTREAM: upstream's own target tables, and rows that follow by rule."""

import csv
from pathlib import Path

import pytest

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.settings import parse_assignments
from sim.node_type import NodeType, named
from sim.one_node import Holding, hold

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
SEEDS = 40
VARIABLES = ("WARM_ENI_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET")
PREFIXES = "ENABLE_PREFIX_DELEGATION=true"


def table(name: str) -> list[dict[str, str]]:
    """Return a reference table's rows; none where the folder is missing."""
    path = REFERENCE / f"{name}_ip_target.csv"
    if not path.exists():
        return []
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def held(
    enis: int,
    ips: int,
    pods: list[int],
    *pairs: str,
    seed: int = 0,
    behaviour: Behaviour = UPSTREAM,
    burst: bool = False,
    max_pods: int | None = None,
) -> list[Holding]:
    """Return what a node holds at each pod count."""
    settings = parse_assignments(pairs, lenient=behaviour is UPSTREAM)
    node = NodeType("row", enis, ips)
    return list(
        hold(node, settings, pods, behaviour=behaviour, seed=seed, burst=burst, max_pods=max_pods)
    )


@pytest.mark.skipif(not REFERENCE.exists(), reason="no ../shared/reference beside the checkout")
@pytest.mark.parametrize(
    ("name", "row"),
    [pytest.param(n, row, id=f"{n}-{row['row']}") for n in ("eni", "prefix") for row in table(n)],
)
def test_the_target_tables_come_out_row_by_row(name: str, row: dict[str, str]) -> None:
    """The code's totals are met; where it is random, all of its values occur and no other."""
    pairs = [f"{v}={row[v.lower()]}" for v in VARIABLES if row.get(v.lower())]
    if name == "prefix":
        pairs.append(PREFIXES)
    seen: dict[str, set[str]] = {}
    for seed in range(SEEDS if name == "prefix" else 3):
        enis, ips = int(row["max_enis"]), int(row["ipv4_per_eni_incl_primary"])
        (found,) = held(enis, ips, [int(row["pods"])], *pairs, seed=seed)
        figures = {
            "code_enis": found.enis,
            "code_secondary_ips": found.addresses,
            "code_prefixes": found.prefixes,
            "code_unused_ips": found.available,
            "code_wholly_free_prefixes": found.free_prefixes,
            "code_ips_per_eni_one_by_one": ",".join(map(str, found.per_eni)),
            "code_prefixes_per_eni": ",".join(map(str, found.per_eni)),
        }
        assert found.settled
        for column, value in figures.items():
            if column in row:
                seen.setdefault(column, set()).add(str(value))
    assert seen == {column: set(row[column].split("|")) for column in seen}


# enis, ips per ENI, pods in turn, settings, (enis, addresses) at each count; U = ips - 1.
ROWS = [
    # The primary is filled; nothing more while U are available.
    (3, 10, [0], [], [(1, 9)]),
    # Two ENIs' worth warm: the primary and one more from the start, a third for the first pod.
    (3, 10, [0, 1], ["WARM_ENI_TARGET=2"], [(2, 18), (3, 27)]),
    # MAX_ENI=1: full, and never more.
    (3, 10, [0, 9], ["MAX_ENI=1"], [(1, 9), (1, 9)]),
    # An IP target above an ENI's addresses: 9 on the primary, the other 3 on a second.
    (3, 10, [0], ["WARM_IP_TARGET=12"], [(2, 12)]),
    # MINIMUM alone: grows to 7, and not for the pods within.
    (3, 10, [0, 5], ["MINIMUM_IP_TARGET=7"], [(1, 7), (1, 7)]),
    # Warm 2 over minimum 7: at 6 pods 8 in all.
    (3, 10, [0, 6], ["WARM_IP_TARGET=2", "MINIMUM_IP_TARGET=7"], [(1, 7), (1, 8)]),
    # Scale-down under defaults: ENIs go while 2 U = 18 addresses are available.
    (3, 10, [20, 0], [], [(3, 27), (1, 9)]),
    # Scale-down under an IP target: single addresses go, then idle ENIs.
    (3, 4, [2, 0], ["WARM_IP_TARGET=1"], [(1, 3), (1, 1)]),
    # No cooldown changes nothing at rest.
    (3, 10, [5, 0], ["WARM_IP_TARGET=3", "IP_COOLDOWN_PERIOD=0"], [(1, 8), (1, 3)]),
    # Prefixes: 16 for the target of 1; 2 prefixes once a pod has taken of the first.
    (3, 10, [0, 1], [PREFIXES, "WARM_PREFIX_TARGET=1"], [(1, 16), (1, 32)]),
    # Two free prefixes wanted: 32 available; one pod makes it 31, so one more.
    (3, 10, [0, 1], [PREFIXES, "WARM_PREFIX_TARGET=2"], [(1, 32), (1, 48)]),
    # The chart's WARM_PREFIX_TARGET=1 rules where nothing is set.
    (3, 10, [0, 1], [PREFIXES], [(1, 16), (1, 32)]),
    # 20 is rounded up to two prefixes.
    (3, 10, [0], [PREFIXES, "MINIMUM_IP_TARGET=20"], [(1, 32)]),
    # 16 x 9 = 144 on the primary; the 145th address needs a second ENI.
    (3, 10, [140], [PREFIXES, "WARM_IP_TARGET=5"], [(2, 160)]),
]


@pytest.mark.parametrize(("enis", "ips", "pods", "pairs", "wanted"), ROWS)
def test_rows_that_follow_from_the_rules(
    enis: int, ips: int, pods: list[int], pairs: list[str], wanted: list[tuple[int, int]]
) -> None:
    """Each row is worked out beside it from the rules of amazon-vpc-cni-k8s v1.23."""
    found = held(enis, ips, pods, *pairs)
    assert [(h.enis, h.addresses) for h in found] == wanted
    assert all(h.settled for h in found)


def test_the_pool_stops_at_max_pods() -> None:
    """With 9 or more addresses for 9 pods nothing is added: the limit test is total >= max-pods."""
    (found,) = held(3, 10, [5], max_pods=9)
    assert (found.enis, found.addresses) == (1, 9)
    (found,) = held(3, 10, [5], max_pods=10)
    assert (found.enis, found.addresses) == (2, 18)


def test_warm_eni_target_zero_never_settles() -> None:
    """Three pods on 3x3: an ENI is made and freed for ever, which is told."""
    (found,) = held(3, 4, [3], "WARM_ENI_TARGET=0")
    assert not found.settled
    assert found.calls["CreateNetworkInterface"] >= 17
    (native,) = held(3, 4, [3], "WARM_ENI_TARGET=0", behaviour=NATIVE)
    assert native.settled
    assert (native.enis, native.addresses) == (1, 3)


def test_a_last_prefix_can_be_stranded() -> None:
    """33 pods come and go on 3x3: a prefix is left, mostly on a second ENI that cannot go."""
    seen = {
        held(3, 4, [33, 0], PREFIXES, "WARM_PREFIX_TARGET=1", seed=seed)[1].per_eni
        for seed in range(12)
    }
    assert (0, 1) in seen
    assert seen <= {(0, 1), (1,), (1, 0)}


@pytest.mark.parametrize("behaviour", [UPSTREAM, NATIVE], ids=lambda b: b.name)
@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ([], [(1, 29), (3, 87), (5, 145), (8, 232)]),
        (["WARM_IP_TARGET=5"], [(1, 5), (2, 55), (4, 105), (8, 209)]),
        (["WARM_IP_TARGET=20"], [(1, 20), (3, 70), (5, 120), (8, 224)]),
    ],
    ids=["default", "5", "20"],
)
def test_m4_4xlarge_as_announced(
    behaviour: Behaviour, pairs: list[str], wanted: list[tuple[int, int]]
) -> None:
    """1 ENI and 29 addresses at no pod, 8 and 232 (with 8 primaries 240) at 204, by default."""
    settings = parse_assignments(pairs, lenient=True)
    found = hold(named("m4.4xlarge"), settings, [0, 50, 100, 204], behaviour=behaviour)
    assert [(h.enis, h.addresses) for h in found] == wanted


def test_a_holding_repeats_with_its_seed() -> None:
    """The same seed gives the same node, another seed another one."""
    runs = [held(3, 4, [40, 11], PREFIXES, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert runs[0] == runs[1]
    assert len({str(run) for run in runs}) > 1
