"""A subnet hands out every address at most once, and its counts are right at every moment."""

import random
from ipaddress import IPv4Network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sim.ec2_error import Ec2Error
from sim.subnet import RandomSet, Reservation, ReservationType, Subnet, parse_subnet

FIRST = int(IPv4Network("10.0.0.0/24").network_address)


def a_subnet(cidr: str = "10.0.0.0/24", *reserved: tuple[str, str], used: float = 0) -> Subnet:
    """Return a subnet with reservations as (CIDR, type)."""
    reservations = [
        Reservation(IPv4Network(cidr), ReservationType(kind)) for cidr, kind in reserved
    ]
    return Subnet("subnet-a", cidr, random.Random(1), reservations=reservations, already_used=used)


@pytest.mark.parametrize(
    ("length", "usable", "prefixes"),
    [
        (28, 11, 0),
        (27, 27, 0),
        (26, 59, 2),
        (24, 251, 14),
        (23, 507, 30),
        (22, 1019, 62),
        (20, 4091, 254),
        (19, 8187, 510),
    ],
)
def test_an_empty_subnet_offers_what_ec2_leaves(length: int, usable: int, prefixes: int) -> None:
    """Five addresses are EC2's own, and the blocks that hold them can be no prefix."""
    subnet = a_subnet(f"10.0.0.0/{length}")

    assert (subnet.usable, subnet.free, subnet.free_prefixes) == (usable, usable, prefixes)


def test_a_subnet_gives_each_usable_address_once_and_then_refuses() -> None:
    """251 single addresses of a /24 are all different, none reserved, and there is no 252nd."""
    subnet = a_subnet()

    taken = subnet.take_singles(251)

    assert sorted(taken) == list(range(FIRST + 4, FIRST + 255))
    with pytest.raises(Ec2Error) as refused:
        subnet.take_singles(1)
    assert refused.value.code == "InsufficientFreeAddressesInSubnet"
    subnet.check()


def test_prefixes_are_aligned_and_run_out_with_their_own_code() -> None:
    """Fourteen prefixes of a /24 start at multiples of 16; the fifteenth is refused."""
    subnet = a_subnet()

    taken = subnet.take_prefixes(14)

    assert sorted(taken) == [FIRST + 16 * block for block in range(1, 15)]
    with pytest.raises(Ec2Error) as refused:
        subnet.take_prefixes(1)
    assert refused.value.code == "InsufficientCidrBlocks"
    assert subnet.free == 251 - 14 * 16


def test_all_or_none() -> None:
    """A request for more than there is takes nothing."""
    subnet = a_subnet()

    with pytest.raises(Ec2Error):
        subnet.take_singles(252)
    with pytest.raises(Ec2Error):
        subnet.take_prefixes(15)

    assert (subnet.free, subnet.free_prefixes) == (251, 14)


def test_few_single_addresses_break_most_blocks() -> None:
    """Placed at random, 64 addresses leave a /24 with 187 free ones but hardly a whole /28."""
    subnet = a_subnet()

    subnet.take_singles(64)

    assert subnet.free == 187
    assert subnet.free_prefixes <= 2


def test_placement_is_uniform() -> None:
    """Over many subnets every usable address comes first about as often as any other."""
    rng = random.Random(7)
    counts = dict.fromkeys(range(4, 15), 0)
    subnet = Subnet("subnet-a", "10.0.0.0/28", rng)
    for _ in range(11_000):
        (address,) = subnet.take_singles(1)
        counts[address - FIRST] += 1
        subnet.give_back_single(address)

    assert all(850 < count < 1150 for count in counts.values()), counts


def test_prefixes_come_from_their_reservation_first() -> None:
    """Prefixes leave a `prefix` reservation first, then the rest; singles never enter it."""
    subnet = a_subnet("10.0.0.0/24", ("10.0.0.64/27", "prefix"))

    reserved = subnet.take_prefixes(2)
    rest = subnet.take_prefixes(1)
    for address in reserved:
        subnet.give_back_prefix(address)
    singles = subnet.take_singles(subnet.free_singles)

    assert {address - FIRST for address in reserved} == {64, 80}
    assert rest[0] - FIRST not in (64, 80)
    assert not {address - FIRST for address in singles} & set(range(64, 96))
    assert subnet.free == 32
    assert subnet.free_prefixes == 2
    subnet.check()


def test_explicit_reservations_are_never_handed_out() -> None:
    """Neither singles nor prefixes touch an `explicit` reservation, yet it counts as free."""
    subnet = a_subnet("10.0.0.0/24", ("10.0.0.16/30", "explicit"))

    assert subnet.free == 251
    assert subnet.free_prefixes == 13
    singles = subnet.take_singles(subnet.free_singles)

    assert len(singles) == 247
    assert not {address - FIRST for address in singles} & {16, 17, 18, 19}
    for address in singles:
        subnet.give_back_single(address)
    assert subnet.free_prefixes == 13
    subnet.check()


@pytest.mark.parametrize(("used", "free"), [(0, 251), (0.5, 125), (0.9, 25), (1, 250), (200, 51)])
def test_other_tenants_take_a_share_or_a_count(used: float, free: int) -> None:
    """Below one it is a share of the usable addresses, from one on a count."""
    subnet = a_subnet(used=used)

    assert subnet.free == free
    subnet.check()


@pytest.mark.parametrize(
    ("cidr", "says"),
    [
        ("10.0.0.1/24", "the network is 10.0.0.0/24"),
        ("10.0.0.0", "no mask length"),
        ("10.0.0.0/29", "smaller than /28"),
        ("10.0.0.0/11", "larger than /12"),
        ("10.0.0.0/33", "is not a network"),
        ("10.0.0/24", "is not a network"),
        ("fd00::/64", "is not IPv4"),
    ],
)
def test_a_bad_cidr_is_refused_with_what_is_wrong(cidr: str, says: str) -> None:
    """The message names the CIDR and the reason."""
    with pytest.raises(ValueError, match=says) as refused:
        parse_subnet(cidr)
    assert cidr.partition("/")[0] in str(refused.value)


@pytest.mark.parametrize(
    ("reserved", "says"),
    [
        ([("10.0.1.0/28", "prefix")], "is not inside"),
        ([("10.0.0.16/30", "prefix")], "smaller than a prefix"),
        ([("10.0.0.16/28", "prefix"), ("10.0.0.0/27", "explicit")], "overlap"),
    ],
)
def test_a_bad_reservation_is_refused(reserved: list[tuple[str, str]], says: str) -> None:
    """Reservations lie inside their subnet, hold whole prefixes and do not overlap."""
    with pytest.raises(ValueError, match=says):
        a_subnet("10.0.0.0/24", *reserved)


@pytest.mark.parametrize("used", [-1, 1.5, 252, float("nan"), float("inf")])
def test_a_bad_number_of_used_addresses_is_refused(used: float) -> None:
    """Neither negative, nor broken, nor more than the subnet has."""
    with pytest.raises(ValueError, match="use"):
        a_subnet(used=used)


def test_a_random_set_draws_members_only() -> None:
    """Adding and discarding twice is harmless, and only members are drawn."""
    items = RandomSet(8, full=False)
    for item in (3, 5, 3):
        items.add(item)
    items.discard(5)
    items.discard(5)

    assert len(items) == 1
    assert 3 in items
    assert 5 not in items
    assert items.draw(random.Random(0)) == 3


class SubnetMachine(RuleBasedStateMachine):
    """Any order of taking and giving back keeps counts, alignment and uniqueness."""

    @initialize(
        reserved=st.sampled_from(
            [
                (),
                (("10.0.0.32/27", "prefix"),),
                (("10.0.0.16/30", "explicit"), ("10.0.0.0/28", "prefix")),
            ]
        ),
        used=st.integers(0, 40),
        length=st.sampled_from([25, 26, 27]),
    )
    def start(self, reserved: tuple[tuple[str, str], ...], used: int, length: int) -> None:
        """Begin with some subnet."""
        network = IPv4Network(f"10.0.0.0/{length}")
        inside = [entry for entry in reserved if IPv4Network(entry[0]).subnet_of(network)]
        self.subnet = a_subnet(str(network), *inside)
        self.others = self.subnet.take_singles(min(used, self.subnet.free_singles))
        self.singles: list[int] = []
        self.prefixes: list[int] = []

    @rule(count=st.integers(0, 12))
    def take_singles(self, count: int) -> None:
        """Single addresses come, or all of them are refused."""
        free = self.subnet.free_singles
        try:
            self.singles += self.subnet.take_singles(count)
        except Ec2Error:
            assert count > free

    @rule(count=st.integers(0, 3))
    def take_prefixes(self, count: int) -> None:
        """Prefixes come, or all of them are refused."""
        free = self.subnet.free_prefixes
        try:
            self.prefixes += self.subnet.take_prefixes(count)
        except Ec2Error:
            assert count > free

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """Something that was taken goes back."""
        held = self.singles + self.prefixes
        if not held:
            return
        address = data.draw(st.sampled_from(held))
        if address in self.singles:
            self.singles.remove(address)
            self.subnet.give_back_single(address)
        else:
            self.prefixes.remove(address)
            self.subnet.give_back_prefix(address)

    @invariant()
    def books_balance(self) -> None:
        """No address is held twice, prefixes are aligned, and every count is right."""
        if not hasattr(self, "subnet"):
            return
        addresses = self.others + self.singles
        addresses += [first + offset for first in self.prefixes for offset in range(16)]
        assert len(addresses) == len(set(addresses))
        assert all(first % 16 == 0 for first in self.prefixes)
        assert self.subnet.free == self.subnet.usable - len(addresses)
        self.subnet.check()


SubnetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSubnetMachine = SubnetMachine.TestCase
