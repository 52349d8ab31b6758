"""What one node holds at each pod count: upstream's tables, and rows worked out by hand.

The tables of amazon-vpc-cni-k8s are not ours to ship; where they lie beside the checkout, each
row is compared with what its code does. The rows below need no file: each follows from
upstream's formulas (`ipamd.go`, `data_store.go`), and its comment does the sum. U is the number
of addresses (or prefixes) pods can have of one ENI.
"""

import csv
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.settings import parse_assignments
from sim.node_type import NodeType, named
from sim.one_node import Holding, hold

TABLES = Path(__file__).resolve().parents[2].parent / "shared/reference"
SEEDS = 40
"""Enough that the rarest outcome, one in eight of a Go map of two, is met with 99.5 %."""

VARIABLES = {
    "WARM_ENI_TARGET": "warm_eni_target",
    "WARM_IP_TARGET": "warm_ip_target",
    "MINIMUM_IP_TARGET": "minimum_ip_target",
    "WARM_PREFIX_TARGET": "warm_prefix_target",
}


def held(
    node_type: NodeType,
    settings: str,
    pods: list[int],
    *,
    behaviour: Behaviour = UPSTREAM,
    burst: bool = False,
    seed: int = 0,
    max_pods: int | None = None,
    settle_s: float = 1200.0,
) -> list[Holding]:
    """Hold pods on a node; settings are words KEY=VALUE."""
    chosen = parse_assignments(settings.split(), lenient=behaviour is UPSTREAM)
    return list(
        hold(
            node_type,
            chosen,
            pods,
            behaviour=behaviour,
            burst=burst,
            seed=seed,
            max_pods=max_pods,
            settle_s=settle_s,
        )
    )


# Upstream's tables.


def rows_of(name: str) -> list[dict[str, str]]:
    """Return a table's rows, none where it is not there."""
    path = TABLES / name
    if not path.exists():
        return []
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


ENI_ROWS = rows_of("eni_ip_target.csv")
PREFIX_ROWS = rows_of("prefix_ip_target.csv")
missing = pytest.mark.skipif(not ENI_ROWS, reason=f"no tables of upstream in {TABLES}")


def settings_of(row: dict[str, str]) -> str:
    """Return a row's settings as words."""
    return " ".join(f"{name}={row[at]}" for name, at in VARIABLES.items() if row.get(at))


def type_of(row: dict[str, str]) -> NodeType:
    """Return a row's node type by the limits that the row names."""
    enis, addresses = int(row["max_enis"]), int(row["ipv4_per_eni_incl_primary"])
    return NodeType(row["instance_type"], enis, addresses)


def layout(text: str) -> tuple[int, ...]:
    """Read "3,3,1"."""
    return tuple(int(part) for part in text.split(","))


@missing
def test_no_row_is_missing() -> None:
    """The two tables have 36 rows, and every one of them is tested."""
    assert len(ENI_ROWS) + len(PREFIX_ROWS) == 36


@missing
@pytest.mark.parametrize("burst", [False, True], ids=["one by one", "burst"])
@pytest.mark.parametrize("row", ENI_ROWS, ids=[f"row {row['row']}" for row in ENI_ROWS])
def test_eni_table(row: dict[str, str], burst: bool) -> None:  # noqa: FBT001 - a parameter
    """Each row of the ENI table comes out, however its pods come, with each ENI's share."""
    order = "burst" if burst else "one_by_one"
    for seed in range(3):
        (found,) = held(type_of(row), settings_of(row), [int(row["pods"])], burst=burst, seed=seed)

        assert found.settled
        assert found.enis == int(row["code_enis"])
        assert found.addresses == int(row["code_secondary_ips"])
        assert found.available == int(row["code_unused_ips"])
        assert found.per_eni == layout(row[f"code_ips_per_eni_{order}"])


@missing
@pytest.mark.parametrize("row", PREFIX_ROWS, ids=[f"row {row['row']}" for row in PREFIX_ROWS])
def test_prefix_table(row: dict[str, str]) -> None:
    """Each row of the prefix table comes out; where its code is random, all of its results do."""
    settings = settings_of(row) + " ENABLE_PREFIX_DELEGATION=true"
    free = set()
    for seed in range(SEEDS):
        (found,) = held(type_of(row), settings, [int(row["pods"])], seed=seed)

        assert found.settled
        assert found.enis == int(row["code_enis"])
        assert found.prefixes == int(row["code_prefixes"])
        assert found.available == int(row["code_unused_ips"])
        assert found.per_eni == layout(row["code_prefixes_per_eni"])
        free.add(str(found.free_prefixes))
    assert free == set(row["code_wholly_free_prefixes"].split("|"))


# Rows of our own.


@dataclass(frozen=True)
class Row:
    """Pod counts in turn on a type under settings; `ends` are the states the last one can have.

    A state is (ENIs, blocks, available addresses).
    """

    node: NodeType
    settings: str
    pods: list[int]
    ends: set[tuple[int, int, int]]
    max_pods: int | None = None

    def __str__(self) -> str:
        """Name the row in a test's id."""
        pods = "-".join(map(str, self.pods))
        limit = f" max-pods {self.max_pods}" if self.max_pods else ""
        return f"{self.node.name} {self.settings or 'default'}{limit} {pods}"


T3_MICRO = NodeType("t3.micro", 2, 2)  # U = 1
T3_SMALL = NodeType("t3.small", 3, 4)  # U = 3
M5_LARGE = NodeType("m5.large", 3, 10)  # U = 9
C5_XLARGE = NodeType("c5.xlarge", 4, 15)  # U = 14
P3DN = NodeType("p3dn.24xlarge", 15, 50)  # U = 49
PREFIX = "ENABLE_PREFIX_DELEGATION=true"

ROWS = [
    # WARM_ENI_TARGET: too low while available < U x W, and then a whole ENI comes.
    Row(M5_LARGE, "", [0], {(1, 9, 9)}),  # 9 < 9 is false: the primary ENI is enough.
    Row(M5_LARGE, "", [1], {(2, 18, 17)}),  # 8 < 9: one more.
    Row(M5_LARGE, "", [9], {(2, 18, 9)}),  # 18 - 9 = 9, not below 9.
    Row(M5_LARGE, "", [10], {(3, 27, 17)}),  # 18 - 10 = 8 < 9.
    Row(M5_LARGE, "", [27], {(3, 27, 0)}),  # Too low, but E = 3.
    Row(C5_XLARGE, "", [28], {(3, 42, 14)}),  # 42 - 28 = 14.
    Row(C5_XLARGE, "", [29], {(4, 56, 27)}),  # 42 - 29 = 13 < 14.
    Row(M5_LARGE, "WARM_ENI_TARGET=2", [0], {(2, 18, 18)}),  # 9 < 18, then 18.
    Row(M5_LARGE, "WARM_ENI_TARGET=2", [1], {(3, 27, 26)}),  # 17 < 18.
    Row(M5_LARGE, "WARM_ENI_TARGET=2", [20], {(3, 27, 7)}),  # Too low, but E = 3.
    # W = 0 grows only when nothing is available, also at the start.
    Row(M5_LARGE, "WARM_ENI_TARGET=0", [0], {(1, 9, 9)}),
    Row(M5_LARGE, "WARM_ENI_TARGET=0", [8], {(1, 9, 1)}),
    # The second ENI came at nine pods; 18 - 10 = 8 is less than (W + 1) x U = 9: it stays.
    Row(M5_LARGE, "WARM_ENI_TARGET=0", [10], {(2, 18, 8)}),
    # MAX_ENI below the type's limit holds, above it does not.
    Row(M5_LARGE, "MAX_ENI=2", [18], {(2, 18, 0)}),
    Row(C5_XLARGE, "MAX_ENI=2", [20], {(2, 28, 8)}),  # 8 < 14, but MAX_ENI.
    Row(M5_LARGE, "MAX_ENI=9", [27], {(3, 27, 0)}),
    Row(M5_LARGE, "MAX_ENI=1 WARM_IP_TARGET=5", [7], {(1, 9, 2)}),  # 3 short, no room.
    # IP targets: to the address, filling ENIs in order.
    Row(C5_XLARGE, "WARM_IP_TARGET=3", [0], {(1, 3, 3)}),
    Row(C5_XLARGE, "WARM_IP_TARGET=3", [11], {(1, 14, 3)}),
    Row(C5_XLARGE, "WARM_IP_TARGET=3", [12], {(2, 15, 3)}),
    Row(T3_MICRO, "WARM_IP_TARGET=5", [0], {(2, 2, 2)}),  # 3 short for ever.
    # MINIMUM alone: nothing is short once total has reached it, whoever waits.
    Row(C5_XLARGE, "MINIMUM_IP_TARGET=10", [5], {(1, 10, 5)}),
    Row(C5_XLARGE, "MINIMUM_IP_TARGET=10", [12], {(1, 10, 0)}),
    # The second ENI, with one address, is required: the other has 3 < 4.
    Row(T3_SMALL, "MINIMUM_IP_TARGET=4", [0], {(2, 4, 4)}),
    # max-pods: no growth once total >= max-pods, though whole ENIs or prefixes overshoot it.
    Row(M5_LARGE, "", [1], {(2, 18, 17)}, max_pods=10),  # 9 < 10: grows, to 18.
    Row(M5_LARGE, "", [10], {(2, 18, 8)}, max_pods=10),  # 8 < 9, but 18 >= 10.
    Row(M5_LARGE, "WARM_IP_TARGET=5", [6], {(1, 8, 2)}, max_pods=8),  # 5, 6, 7, 8: stop.
    Row(C5_XLARGE, PREFIX, [17], {(1, 2, 15)}, max_pods=20),  # 15 < 16, but 32 >= 20.
    # WARM_PREFIX_TARGET=2: too low while available < 32; then max(1, 2 - free prefixes).
    Row(M5_LARGE, f"{PREFIX} WARM_PREFIX_TARGET=2", [0], {(1, 2, 32)}),
    Row(M5_LARGE, f"{PREFIX} WARM_PREFIX_TARGET=2", [1], {(1, 3, 47)}),  # 31 < 32, one is free.
    Row(M5_LARGE, f"{PREFIX} WARM_PREFIX_TARGET=2", [16], {(1, 3, 32)}),
    # 31 < 32: of three prefixes one is free, or none where 17 pods straddle all: 1 or 2 more.
    Row(M5_LARGE, f"{PREFIX} WARM_PREFIX_TARGET=2", [17], {(1, 4, 47), (1, 5, 63)}),
    # 16 x 9 = 144 on the primary ENI; 140 + 5 addresses need a tenth prefix.
    Row(M5_LARGE, f"{PREFIX} WARM_IP_TARGET=5", [140], {(2, 10, 20)}),
    Row(T3_MICRO, PREFIX, [17], {(2, 2, 15)}),  # 15 < 16, but U = 1 and E = 2.
    # IP targets in prefix mode are rounded up to sixteens.
    Row(C5_XLARGE, f"{PREFIX} WARM_IP_TARGET=2", [30], {(1, 2, 2)}),
    Row(C5_XLARGE, f"{PREFIX} WARM_IP_TARGET=2", [31], {(1, 3, 17)}),
    Row(C5_XLARGE, f"{PREFIX} MINIMUM_IP_TARGET=33", [0], {(1, 3, 48)}),
    # WARM_PREFIX_TARGET beside an IP target adds nothing: ceil(5 / 16) = 1.
    Row(M5_LARGE, f"{PREFIX} WARM_IP_TARGET=5 WARM_PREFIX_TARGET=3", [0], {(1, 1, 16)}),
]

SCALE_DOWNS = [
    # An ENI goes while available >= (W + 1) x U: 9 >= 6, 6 >= 6, 3 < 6.
    Row(T3_SMALL, "", [9, 0], {(1, 3, 3)}),
    Row(T3_SMALL, "WARM_ENI_TARGET=2", [9, 0], {(2, 6, 6)}),  # 9 >= 9, 6 < 9.
    Row(T3_SMALL, "IP_COOLDOWN_PERIOD=0", [9, 0], {(1, 3, 3)}),
    # 27 - 5 = 22 >= 18: one ENI goes if it is not the primary one and has none of the five pods.
    Row(M5_LARGE, "", [27, 5], {(3, 27, 22), (2, 18, 13)}),
    # over = min(9 - 1, 9 - 1) = 8, ENI by ENI in random order: the last keeps one address. On
    # the primary ENI both others can go; on another one it is required for WARM_IP_TARGET.
    Row(T3_SMALL, "WARM_IP_TARGET=1 MINIMUM_IP_TARGET=1", [9, 0], {(1, 1, 1), (2, 1, 1)}),
    # 11 addresses, over = min(11 - 2, 11 - 4) = 7. Primary ENI first: 9 - 7 = 2 beside 2, and
    # 2 < MINIMUM keeps the second ENI. Second first: 2 and 5 go, 4 stay on the primary ENI.
    Row(M5_LARGE, "WARM_IP_TARGET=2 MINIMUM_IP_TARGET=4", [9, 0], {(1, 4, 4), (2, 4, 4)}),
    # 50 addresses, over = min(45, 40): 9 beside 1, or 10 on the primary ENI.
    Row(P3DN, "WARM_IP_TARGET=5 MINIMUM_IP_TARGET=10", [45, 0], {(1, 10, 10), (2, 10, 10)}),
    # Two prefixes for nine pods, both on the primary ENI; one free prefix too many goes.
    Row(T3_SMALL, PREFIX, [9, 0], {(1, 1, 16)}),
    Row(T3_SMALL, f"{PREFIX} WARM_IP_TARGET=1", [9, 0], {(1, 1, 16)}),  # One all along.
    # Four prefixes, 3 + 1; three go. The last one is on the primary ENI, or keeps the second.
    Row(T3_SMALL, f"{PREFIX} WARM_PREFIX_TARGET=1", [33, 0], {(1, 1, 16), (2, 1, 16)}),
    Row(T3_SMALL, f"{PREFIX} WARM_IP_TARGET=1", [58, 0], {(1, 1, 16), (2, 1, 16)}),
    # Beside an IP target WARM_PREFIX_TARGET keeps ENIs only: one prefix elsewhere is below 2,
    # so that the second ENI stays even without any.
    Row(
        T3_SMALL,
        f"{PREFIX} WARM_IP_TARGET=1 WARM_PREFIX_TARGET=2",
        [58, 0],
        {(2, 1, 16)},
    ),
    # max-pods stops growth, not shrinking: 8 addresses, over = min(8 - 5, 8 - 0) = 3.
    Row(M5_LARGE, "WARM_IP_TARGET=5", [6, 0], {(1, 5, 5)}, max_pods=8),
]


@pytest.mark.parametrize("row", [*ROWS, *SCALE_DOWNS], ids=str)
def test_row_by_hand(row: Row) -> None:
    """The node ends in one of the row's states and, over many seeds, in each of them."""
    certain = len(row.ends) == 1 and len(row.pods) == 1
    ends = set()
    for seed in range(3 if certain else SEEDS):
        *_, end = held(row.node, row.settings, row.pods, seed=seed, max_pods=row.max_pods)

        assert end.settled
        assert end.assigned + end.available == end.addresses
        blocks = end.prefixes if PREFIX in row.settings else end.addresses
        assert sum(end.per_eni) == blocks
        ends.add((end.enis, blocks, end.available))
    assert ends == row.ends


def test_a_burst_may_leave_other_prefixes() -> None:
    """Sixteen pods at once on two prefixes leave one free, or none: 3 or 4 prefixes follow."""
    settings = f"{PREFIX} WARM_PREFIX_TARGET=2"
    ends = set()
    for seed in range(SEEDS):
        (end,) = held(M5_LARGE, settings, [16], burst=True, seed=seed)
        ends.add(end.prefixes)

    assert ends == {3, 4}


def test_no_warm_eni_flaps() -> None:
    """WARM_ENI_TARGET=0 with a full ENI creates and frees one ENI for ever, and says so.

    Each cycle takes 65 s (`ipamd.go:1504` against `:2649`): 18 in 20 minutes.
    """
    (end,) = held(T3_SMALL, "WARM_ENI_TARGET=0", [3])

    assert not end.settled
    assert end.calls["CreateNetworkInterface"] in {18, 19}
    assert 0 <= end.calls["CreateNetworkInterface"] - end.calls["DeleteNetworkInterface"] <= 1
    (native,) = held(T3_SMALL, "WARM_ENI_TARGET=0", [3], behaviour=NATIVE)
    assert (native.settled, native.enis, native.addresses) == (True, 1, 3)


def test_a_holding_repeats_with_its_seed() -> None:
    """The same seed gives the same node, another seed another one."""
    runs = [str(held(T3_SMALL, PREFIX, [40, 11], seed=seed)) for seed in (1, 1, 2, 3, 4)]

    assert runs[0] == runs[1]
    assert len(set(runs)) > 1


def test_pods_beyond_the_minimum_are_refused() -> None:
    """With MINIMUM_IP_TARGET alone two of twelve pods are refused again and again."""
    (end,) = held(C5_XLARGE, "MINIMUM_IP_TARGET=10", [12])

    assert end.assigned == 10
    assert end.refused >= 2 * 1200 // 15


@pytest.mark.parametrize(("cooldown", "refused"), [(0, False), (30, True)])
def test_cooldown(cooldown: int, refused: bool) -> None:  # noqa: FBT001 - a parameter
    """Without a cooldown an address can go on to the next pod a second later, else not."""
    settings = f"MAX_ENI=1 IP_COOLDOWN_PERIOD={cooldown}"
    *_, end = held(M5_LARGE, settings, [9, 4, 9], settle_s=1)

    assert (end.refused > 0) == refused
    assert end.assigned == (4 if refused else 9)


def test_deleted_pods_that_had_no_address_do_not_come_back() -> None:
    """Pods that are deleted while they wait for a retry never take an address later."""
    *_, end = held(C5_XLARGE, "MINIMUM_IP_TARGET=10", [12, 0])

    assert (end.assigned, end.available) == (0, 10)


# Both behaviours.


@pytest.mark.parametrize("behaviour", [UPSTREAM, NATIVE], ids=lambda b: b.name)
@pytest.mark.parametrize(
    ("settings", "addresses"),
    [
        # 29 an ENI. Whole ENIs: available >= 29, so 29, 87, 145, and 232 where E = 8 ends it.
        ("", [(1, 29), (3, 87), (5, 145), (8, 232)]),
        # pods + 5 and pods + 20, on as few ENIs as that takes.
        ("WARM_IP_TARGET=5", [(1, 5), (2, 55), (4, 105), (8, 209)]),
        ("WARM_IP_TARGET=20", [(1, 20), (3, 70), (5, 120), (8, 224)]),
    ],
)
def test_m4_4xlarge(settings: str, addresses: list[tuple[int, int]], behaviour: Behaviour) -> None:
    """m4.4xlarge at 0, 50, 100 and 204 pods holds what the v1.1 announcement counts."""
    node_type = named("m4.4xlarge")
    assert (node_type.enis, node_type.ipv4_per_eni) == (8, 30)

    found = held(node_type, settings, [0, 50, 100, 204], behaviour=behaviour)

    assert [(end.enis, end.addresses) for end in found] == addresses
    assert all(end.settled for end in found)
    assert [end.assigned for end in found] == [0, 50, 100, 204]


def test_m4_4xlarge_is_full_at_204_pods() -> None:
    """With default targets 232 secondary and 8 primary addresses are 240, all there are."""
    (end,) = held(named("m4.4xlarge"), "", [204])

    assert end.addresses + end.enis == 240


@pytest.mark.parametrize(
    ("settings", "pods"),
    list(
        product(
            ["", "WARM_ENI_TARGET=2", "WARM_IP_TARGET=3", "MINIMUM_IP_TARGET=12 WARM_IP_TARGET=2"],
            [[0], [5], [20], [27, 20], [27, 3, 11]],
        )
    ),
    ids=str,
)
def test_native_meets_the_target(settings: str, pods: list[int]) -> None:
    """NATIVE serves every pod, refuses none and holds, settled, no less than upstream does."""
    *_, end = held(M5_LARGE, settings, pods, behaviour=NATIVE, settle_s=3 * 3600)
    least = min(
        (held(M5_LARGE, settings, pods, seed=seed)[-1] for seed in range(3)),
        key=lambda other: other.addresses,
    )

    assert end.settled
    assert (end.refused, end.assigned) == (0, pods[-1])
    assert end.addresses >= least.addresses
