"""A design review's question, against published figures and against the spreadsheet's faults.

Published: the EKS best-practices guide (VPC CNI, corrected by aws-eks-best-practices#502) and
AI on EKS, "Networking for AI". The faults are those of the guide's spreadsheet calculator: each
test of one says what it got wrong.
"""

import pytest

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.settings import Settings, parse_assignments
from sim.node_type import named
from sim.one_node import hold
from sim.plan import ADDRESSES, BLOCKS, QUOTA, Plan, Pool, Zone, plan
from sim.scenario import SubnetPlan
from sim.subnet import Reservation, ReservationType, parse_subnet

both = pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM], ids=["native", "upstream"])
PREFIXES = "ENABLE_PREFIX_DELEGATION=true"
WIDE = "10.0.0.0/21"


def pool(
    instance: str = "m5.large",
    nodes: int = 1,
    pods: int = 0,
    settings: str = "",
    *,
    shared: int = 0,
    max_pods: int | None = None,
) -> Pool:
    """Describe a pool; settings are words KEY=VALUE, read as upstream reads them."""
    chosen = parse_assignments(settings.split(), lenient=True) if settings else Settings()
    return Pool(instance, named(instance), chosen, nodes, pods, shared, max_pods)


def answer(
    *pools: Pool, subnets: tuple[str, ...] = (WIDE,), behaviour: Behaviour = UPSTREAM, **more: float
) -> Plan:
    """Plan pools in plain subnets."""
    zones = [Zone(SubnetPlan(cidr)) for cidr in subnets]
    return plan(pools, zones, behaviour=behaviour, **more)  # type: ignore[arg-type]


# Published figures.


@both
def test_best_practices_guide_three_c5_large_with_two_coredns_hold_50(behaviour: Behaviour) -> None:
    """Two nodes with a pod keep a warm ENI beside the first, 20 each; the one without holds 10."""
    found = answer(pool("c5.large", 3, shared=2), behaviour=behaviour)

    assert [group.each.addresses for group in found.best.held[0]] == [20, 10]
    assert found.best.addresses(0) == 50


@both
@pytest.mark.parametrize(("instance", "held"), [("m5.8xlarge", 60), ("m5.16xlarge", 100)])
def test_ai_on_eks_ten_pods_hold_60_and_100(instance: str, held: int, behaviour: Behaviour) -> None:
    """Ten pods keep a whole second ENI warm, which larger types pay with 30 or 50 addresses."""
    found = answer(pool(instance, pods=10), behaviour=behaviour)

    assert found.best.addresses(0) == held
    assert found.best.held[0][0].each.enis == 2


# The spreadsheet's faults.


@pytest.mark.parametrize(("cidr", "usable"), [("10.0.0.0/24", 251), ("10.0.0.0/23", 507)])
def test_five_addresses_of_each_subnet_are_ec2s(cidr: str, usable: int) -> None:
    """The sheet keeps two: its /23 has 510."""
    assert answer(pool(), subnets=(cidr,)).usable == (usable,)


def test_pods_of_daemon_sets_count_on_every_node() -> None:
    """The sheet asks for them and no formula reads them: here 4 on each node are 4 on each."""
    few, more = answer(pool(pods=7), replaced=0), answer(pool(pods=7 + 4), replaced=0)
    assert few.best.addresses(0) == 20
    assert more.best.addresses(0) == 30


def test_an_eni_has_a_primary_address_that_no_pod_can_have() -> None:
    """The sheet divides pods by all addresses of an ENI; ten pods do not fit on nine."""
    (group,) = answer(pool(pods=10, settings="WARM_ENI_TARGET=0")).best.held[0]
    assert (group.each.enis, group.each.warm) == (2, 8)


def test_no_node_goes_beyond_its_type() -> None:
    """The sheet never stops at the ENI limit: a full m5.large has 3 ENIs and no warm one."""
    (group,) = answer(pool(pods=27, settings="WARM_ENI_TARGET=5")).worst.held[0]
    assert (group.each.enis, group.each.addresses, group.each.warm) == (3, 30, 0)


@pytest.mark.parametrize("warm", [1, 5, 12])
def test_single_addresses_are_charged_by_the_warm_ip_target(warm: int) -> None:
    """In the sheet the total does not depend on it and goes by whole ENIs."""
    (group,) = answer(pool("m5.4xlarge", pods=10, settings=f"WARM_IP_TARGET={warm}")).best.held[0]
    assert (group.each.assigned, group.each.warm, group.each.enis) == (10, warm, 1)


def test_a_type_with_many_cards_has_the_enis_of_one() -> None:
    """The sheet gives p4d.24xlarge 60 ENIs; a node attaches 15."""
    assert pool("p4d.24xlarge").addresses_max == 15 * 49


# The two cases.


@both
@pytest.mark.parametrize("settings", ["", "WARM_IP_TARGET=2 MINIMUM_IP_TARGET=10", PREFIXES])
@pytest.mark.parametrize("pods", [0, 1, 12, 27])
def test_worst_is_never_better_than_best(pods: int, settings: str, behaviour: Behaviour) -> None:
    """It holds as much and has as few left; parts add up to what is held."""
    found = answer(pool(pods=pods, settings=settings), behaviour=behaviour)

    for case in (found.best, found.worst):
        each = case.held[0][0].each.as_dict()
        assert each["held"] == sum(each[k] for k in ("assigned", "cooling", "warm", "primary"))
        assert each["assigned"] == pods
        assert each["warm"] >= 0
        assert case.left[0].free == found.before[0].free - case.addresses(0)
    assert found.worst.addresses(0) >= found.best.addresses(0)
    assert found.worst.fit[0] <= found.best.fit[0]


@both
def test_pods_that_stay_keep_enis_from_going(behaviour: Behaviour) -> None:
    """Two pods of an m5.large that was full sit on both secondary ENIs: all three stay."""
    found = answer(pool(pods=2), behaviour=behaviour, replaced=0)
    assert found.best.held[0][0].each.enis == 2
    assert found.worst.held[0][0].each.enis == 3


@both
@pytest.mark.parametrize("seed", range(5))
def test_no_order_of_deleting_pods_holds_more(seed: int, behaviour: Behaviour) -> None:
    """Pods deleted by chance leave at most what scattered ones do."""
    for settings, full in (("", 56), ("WARM_IP_TARGET=3", 56), (PREFIXES, 100)):
        asked = pool("m5.2xlarge", settings=settings)
        held = [
            list(
                hold(
                    asked.node_type,
                    asked.settings,
                    [full, 9],
                    behaviour=behaviour,
                    scatter=scatter,
                    seed=seed,
                    settle_s=4000,
                )
            )[-1]
            for scatter in (False, True)
        ]
        drawn, worst = (one.addresses + one.enis for one in held)
        assert drawn <= worst


def test_replaced_pods_cool_beside_those_that_replace_them() -> None:
    """A quarter of twelve pods: three addresses more, which cool when the old pods have gone."""
    settings = "WARM_IP_TARGET=1"
    calm = answer(pool(pods=12, settings=settings), replaced=0)
    busy = answer(pool(pods=12, settings=settings), replaced=0.25)
    assert [one.worst.held[0][0].each.cooling for one in (calm, busy)] == [0, 3]
    assert busy.worst.addresses(0) == calm.worst.addresses(0) + 3


# Where it goes.


def test_nodes_fit_until_addresses_run_out() -> None:
    """A /24 has 251 addresses: eight nodes of 30 find room, and the ninth does not."""
    fits = answer(pool(nodes=8, pods=15), subnets=("10.0.0.0/24",))
    full = answer(pool(nodes=9, pods=15), subnets=("10.0.0.0/24",))

    assert fits.fits("worst")
    assert fits.worst.left[0].free == 251 - 8 * 30
    assert fits.best.fit == full.best.fit == (8,)
    assert not full.fits("best")
    assert full.best.placed == (8,)
    assert [(one.what, one.where) for one in full.best.shortages] == [(ADDRESSES, "10.0.0.0/24")]
    assert full.best.first_out.nodes == 8


def test_nodes_are_dealt_to_zones_and_the_smallest_runs_out_first() -> None:
    """Two zones in turn: the half of a /24 that others hold has room for four nodes of 30."""
    zones = [Zone(SubnetPlan("10.0.0.0/24")), Zone(SubnetPlan("10.0.1.0/24", used=0.5))]
    found = plan([pool(nodes=8, pods=15)], zones, behaviour=UPSTREAM)
    assert found.fits("worst")
    assert found.worst.first_out.where == "10.0.1.0/24"
    assert found.worst.first_out.nodes == 9
    assert found.worst.fit == (9,)


def test_within_a_zone_the_subnet_with_most_free_addresses_is_taken() -> None:
    """Two subnets of one zone fill evenly, whatever their sizes."""
    zones = [Zone(SubnetPlan("10.0.0.0/24"), "a"), Zone(SubnetPlan("10.0.4.0/22"), "a")]
    found = plan([pool(nodes=26, pods=15)], zones, behaviour=UPSTREAM)
    free = [left.free for left in found.best.left]
    assert abs(free[0] - free[1]) <= 30
    assert found.best.fit[0] == 251 // 30 + 1019 // 30


def test_prefixes_need_whole_blocks() -> None:
    """A /22 has 62 that are whole; primaries break up more where they come first."""
    asked = pool(nodes=24, pods=1, settings=PREFIXES)
    found = answer(asked, subnets=("10.0.0.0/22",), replaced=0)
    assert found.before[0].free_prefixes == 62
    assert found.best.held[0][0].each.prefixes == found.worst.held[0][0].each.prefixes == 2
    assert found.worst.fit[0] < found.best.fit[0] < 62 // 2
    assert not found.fits("worst")
    assert {one.what for one in found.worst.shortages} == {BLOCKS}


def test_pools_without_prefixes_break_up_blocks_at_worst() -> None:
    """At best prefixes come first and both find room; at worst other nodes' addresses do."""
    singles, prefixes = pool(nodes=10, pods=15), pool(nodes=5, pods=10, settings=PREFIXES)
    found = answer(singles, prefixes, subnets=("10.0.0.0/22",), replaced=0)
    assert found.best.placed == (10, 5)
    assert found.worst.placed == (10, 0)


def test_others_break_up_blocks_and_a_reservation_keeps_them() -> None:
    """With 30 % used at random hardly a /28 is whole; in a reserved half all are."""
    asked = pool(nodes=5, pods=10, settings=PREFIXES)
    bare = plan([asked], [Zone(SubnetPlan("10.0.0.0/22", used=0.3))])
    half = Reservation(parse_subnet("10.0.2.0/23"), ReservationType.PREFIX)
    kept = plan([asked], [Zone(SubnetPlan("10.0.0.0/22", used=0.3, reservations=(half,)))])

    assert bare.before[0].free_prefixes < 5
    assert not bare.fits("best")
    assert any("reservation" in line for line in bare.warnings)
    assert kept.before[0].free_prefixes >= 31
    assert kept.fits("best")
    assert not any("reservation" in line for line in kept.warnings)


def test_pools_share_the_subnets() -> None:
    """What one pool takes, another lacks."""
    alone = answer(pool(nodes=4, pods=15), subnets=("10.0.0.0/24",))
    beside = answer(pool(nodes=4, pods=15), pool("c5.large", 2, 3), subnets=("10.0.0.0/24",))
    assert alone.best.fit == (8,)
    assert beside.best.fit == (7, 6)


def test_the_regions_eni_quota_can_run_out_first() -> None:
    """5,000 ENIs per region: 1,700 nodes of three are too many in any subnet."""
    found = answer(pool(nodes=1700, pods=20), subnets=("10.0.0.0/16", "10.1.0.0/16"))
    assert {one.what for one in found.worst.shortages} == {QUOTA}
    assert found.worst.placed == (1666,)


# Pods on their node.


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (pool(pods=28), ["more than max-pods 29", "addresses for, 27"]),
        (pool(pods=20, max_pods=20), ["20 pods and 2 on the host's network are more than"]),
        (
            pool(pods=10, settings="MAX_ENI=1"),
            ["10 pods are more than a node has addresses for, 9"],
        ),
        (pool(pods=109, settings=PREFIXES), ["more than max-pods 110"]),
    ],
)
def test_pods_that_find_no_place_on_their_node(asked: Pool, says: list[str]) -> None:
    """max-pods and addresses bound each node; subnets have nothing to do with it."""
    found = answer(asked)
    assert not found.fits("best")
    assert len(found.misfits) == len(says)
    assert all(part in line for part, line in zip(says, found.misfits, strict=True))


def test_addresses_that_max_pods_lets_nobody_use_are_warned_of() -> None:
    """The other way round: ENIs full of addresses for a node that may run ten pods."""
    found = answer(pool("m5.4xlarge", pods=5, max_pods=12))
    assert any("holds 29 addresses for pods, and max-pods 12" in line for line in found.warnings)


def test_a_plan_that_makes_no_sense_is_refused() -> None:
    """Nothing to plan, nowhere to go, a share that is none, prefixes on a type without."""
    for pools, subnets, more, says in (
        ((), (WIDE,), {}, "at least one"),
        ((pool(),), (), {}, "at least one"),
        ((pool(),), (WIDE,), {"replaced": 2.0}, "share"),
        ((pool("m4.large", settings=PREFIXES),), (WIDE,), {}, "prefixes"),
        ((pool(max_pods=2),), (WIDE,), {}, "max-pods 2"),
    ):
        with pytest.raises(ValueError, match=says):
            answer(*pools, subnets=subnets, **more)


def test_equal_questions_have_equal_answers() -> None:
    """Chance comes from the seed alone."""
    asked = pool(nodes=5, pods=10, settings=PREFIXES)
    assert answer(asked, subnets=("10.0.0.0/24",)) == answer(asked, subnets=("10.0.0.0/24",))
