"""One subnet as EC2 keeps it: which addresses are free, and which /28 blocks still are whole.

Knows addresses as integers and offsets; nothing of ENIs or instances. The rule it upholds:
an address is handed out at most once, and every count equals what `check` recomputes.

Single addresses are placed at random, as EC2 does (cilium#38499); that is what breaks up the
/28 blocks, and so the reason why a subnet with many free addresses can have no prefix left.
Source of the limits: VPC user guide, "Subnet CIDR blocks" and "Subnet CIDR reservations".
"""

import math
import random
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, ip_network

from sim.ec2_error import Ec2Error

PREFIX_ADDRESSES = 16
"""Addresses in one prefix, a /28."""

RESERVED_OFFSETS = (0, 1, 2, 3, -1)
"""The five addresses of every subnet that EC2 keeps: the first four and the last."""

_LONGEST_MASK = 28
_SHORTEST_MASK = 12

_FREE, _SINGLE, _IN_PREFIX, _RESERVED = range(4)


class ReservationType(Enum):
    """What a subnet CIDR reservation keeps its addresses for."""

    PREFIX = "prefix"
    EXPLICIT = "explicit"


@dataclass(frozen=True, slots=True)
class Reservation:
    """A subnet CIDR reservation: `PREFIX` serves prefixes first, `EXPLICIT` nobody by itself."""

    cidr: IPv4Network
    type: ReservationType


def parse_subnet(cidr: str) -> IPv4Network:
    """Read a subnet's CIDR, or raise ValueError saying what is wrong and what would be right.

    EC2's own largest subnet is a /16; up to /12 is allowed here, for a subnet without end.

    >>> parse_subnet("10.0.1.0/24").num_addresses
    256
    """
    network = _parse_network(cidr)
    if network.prefixlen < _SHORTEST_MASK:
        message = f"subnet {cidr} is larger than /{_SHORTEST_MASK}, the largest simulated"
        raise ValueError(message)
    if network.prefixlen > _LONGEST_MASK:
        message = f"subnet {cidr} is smaller than /{_LONGEST_MASK}, EC2's smallest"
        raise ValueError(message)
    return network


def _parse_network(cidr: str) -> IPv4Network:
    """Read any IPv4 network whose host bits are zero."""
    if "/" not in cidr:
        message = f"subnet {cidr!r} has no mask length, such as 10.0.0.0/24"
        raise ValueError(message)
    try:
        network = ip_network(cidr, strict=False)
    except ValueError as error:
        message = f"subnet {cidr!r} is not a network, such as 10.0.0.0/24: {error}"
        raise ValueError(message) from error
    if not isinstance(network, IPv4Network):
        message = f"subnet {cidr} is not IPv4"
        raise ValueError(message)  # noqa: TRY004 - a user's typing error, not a programmer's
    address, _, _ = cidr.partition("/")
    if IPv4Address(address) != network.network_address:
        message = f"subnet {cidr} has host bits set; the network is {network}"
        raise ValueError(message)
    return network


class RandomSet:
    """A set of integers below a fixed bound from which one can be drawn at random, all in O(1).

    `_members` is a permutation of all integers whose first `_size` entries are the set, and
    `_where` is its inverse: a member leaves by changing places with the last one.
    """

    __slots__ = ("_members", "_size", "_where")

    def __init__(self, bound: int, *, full: bool) -> None:
        """Hold every integer from 0 to `bound` - 1, or none of them."""
        self._members = array("I", range(bound))
        self._where = array("I", range(bound))
        self._size = bound if full else 0

    def __len__(self) -> int:
        """Count the members."""
        return self._size

    def __contains__(self, item: int) -> bool:
        """Tell whether the integer is a member."""
        return self._where[item] < self._size

    def add(self, item: int) -> None:
        """Make the integer a member, if it is not one yet."""
        if self._where[item] >= self._size:
            self._swap(item, self._size)
            self._size += 1

    def discard(self, item: int) -> None:
        """Make sure that the integer is no member."""
        if self._where[item] < self._size:
            self._size -= 1
            self._swap(item, self._size)

    def draw(self, rng: random.Random) -> int:
        """Return a member, each with the same probability; it stays in the set."""
        return self._members[int(rng.random() * self._size)]

    def _swap(self, item: int, place: int) -> None:
        """Put the integer into this place, and what was there into its own."""
        members, where = self._members, self._where
        other, old = members[place], where[item]
        members[place], members[old] = item, other
        where[item], where[other] = place, old


class Subnet:
    """The addresses of one subnet; state changes through `take_…` and `give_back_…` only.

    `zone` is the availability zone, any text: an instance takes ENIs of its own zone.
    `already_used` stands for other tenants: a share of the usable addresses if it is below 1,
    otherwise a count; they are placed at random at once and never leave.
    """

    def __init__(  # noqa: PLR0913 - all but three have defaults
        self,
        subnet_id: str,
        cidr: str,
        rng: random.Random,
        *,
        zone: str = "",
        reservations: Iterable[Reservation] = (),
        already_used: float = 0,
    ) -> None:
        """Start with an empty subnet, but for reserved addresses and other tenants.

        Raises ValueError for a bad CIDR, reservation or number of used addresses.
        """
        self.subnet_id = subnet_id
        self.network = parse_subnet(cidr)
        self.zone = zone
        self._rng = rng
        size = self.network.num_addresses
        self._first = int(self.network.network_address)
        self._state = bytearray(size)
        self._taken_in_block = bytearray(size // PREFIX_ADDRESSES)
        self._prefix_block = bytearray(size // PREFIX_ADDRESSES)
        self._explicit = bytearray(size)
        self._free = size
        self._singles = RandomSet(size, full=True)
        self._reserved_blocks = RandomSet(size // PREFIX_ADDRESSES, full=False)
        self._other_blocks = RandomSet(size // PREFIX_ADDRESSES, full=True)
        self._reserve(tuple(reservations))
        for offset in RESERVED_OFFSETS:
            self._take(offset % size, _RESERVED)
        self._usable = self._free
        self._settle_others(already_used)

    def _reserve(self, reservations: tuple[Reservation, ...]) -> None:
        """Set the ranges of all reservations aside, each for its purpose."""
        for number, reservation in enumerate(reservations):
            cidr = reservation.cidr
            if not cidr.subnet_of(self.network):
                message = f"reservation {cidr} is not inside subnet {self.network}"
                raise ValueError(message)
            for earlier in reservations[:number]:
                if cidr.overlaps(earlier.cidr):
                    message = f"reservations {earlier.cidr} and {cidr} overlap"
                    raise ValueError(message)
            start = int(cidr.network_address) - self._first
            offsets = range(start, start + cidr.num_addresses)
            for offset in offsets:
                self._singles.discard(offset)
            if reservation.type is ReservationType.EXPLICIT:
                for offset in offsets:
                    self._explicit[offset] = 1
                    self._other_blocks.discard(offset // PREFIX_ADDRESSES)
            elif cidr.prefixlen > _LONGEST_MASK:
                message = f"reservation {cidr} for prefixes is smaller than a prefix, a /28"
                raise ValueError(message)
            else:
                for offset in offsets[::PREFIX_ADDRESSES]:
                    block = offset // PREFIX_ADDRESSES
                    self._prefix_block[block] = 1
                    self._other_blocks.discard(block)
                    self._reserved_blocks.add(block)

    def _settle_others(self, already_used: float) -> None:
        """Place the other tenants' addresses."""
        if already_used < 0 or not math.isfinite(already_used):
            message = f"addresses already used must be a share or a count, not {already_used}"
            raise ValueError(message)
        count = round(already_used * self._usable) if already_used < 1 else round(already_used)
        if already_used >= 1 and count != already_used:
            message = f"addresses already used must be a share below 1 or whole: {already_used}"
            raise ValueError(message)
        if count > len(self._singles):
            message = (
                f"{count} addresses cannot be in use already: subnet {self.network} "
                f"has {len(self._singles)} for single addresses"
            )
            raise ValueError(message)
        self.take_singles(count)

    @property
    def usable(self) -> int:
        """Addresses that EC2 does not keep for itself: the size less five."""
        return self._usable

    @property
    def free(self) -> int:
        """Addresses that nobody uses, with those in reservations: AvailableIpAddressCount."""
        return self._free

    @property
    def free_singles(self) -> int:
        """Free addresses that EC2 may hand out by itself, so outside reservations."""
        return len(self._singles)

    @property
    def free_prefixes(self) -> int:
        """Aligned /28 blocks without a used or reserved address."""
        return len(self._reserved_blocks) + len(self._other_blocks)

    def take_singles(self, count: int) -> list[int]:
        """Take `count` addresses at random, all or none; Ec2Error where fewer are free."""
        if count > len(self._singles):
            raise Ec2Error(
                "InsufficientFreeAddressesInSubnet",
                f"There are not enough free addresses in subnet '{self.subnet_id}' "
                f"to satisfy the requested number: {count} of {len(self._singles)}.",
            )
        taken = []
        for _ in range(count):
            offset = self._singles.draw(self._rng)
            self._take(offset, _SINGLE)
            taken.append(self._first + offset)
        return taken

    def take_prefixes(self, count: int) -> list[int]:
        """Take `count` aligned /28 blocks, all or none, and return their first addresses.

        Blocks of `PREFIX` reservations go first (cni#2749). Ec2Error where fewer are whole.
        """
        if count > self.free_prefixes:
            raise Ec2Error(
                "InsufficientCidrBlocks",
                "The specified subnet does not have enough free cidr blocks "
                f"to satisfy the request: {count} of {self.free_prefixes}.",
            )
        taken = []
        for _ in range(count):
            block = (self._reserved_blocks or self._other_blocks).draw(self._rng)
            self._take_block(block)
            taken.append(self._first + block * PREFIX_ADDRESSES)
        return taken

    def give_back_single(self, address: int) -> None:
        """Free one address that `take_singles` returned."""
        offset = address - self._first
        assert self._state[offset] == _SINGLE, IPv4Address(address)
        self._state[offset] = _FREE
        self._free += 1
        self._singles.add(offset)
        block = offset // PREFIX_ADDRESSES
        self._taken_in_block[block] -= 1
        if self._taken_in_block[block] == 0 and not self._has_explicit(block):
            self._other_blocks.add(block)

    def give_back_prefix(self, address: int) -> None:
        """Free one block that `take_prefixes` returned, named by its first address."""
        start = address - self._first
        assert self._state[start] == _IN_PREFIX, IPv4Address(address)
        end = start + PREFIX_ADDRESSES
        self._state[start:end] = bytes(PREFIX_ADDRESSES)
        self._free += PREFIX_ADDRESSES
        block = start // PREFIX_ADDRESSES
        self._taken_in_block[block] = 0
        if self._prefix_block[block]:
            self._reserved_blocks.add(block)
            return
        self._other_blocks.add(block)
        for offset in range(start, end):
            self._singles.add(offset)

    def _take(self, offset: int, state: int) -> None:
        """Use one free address, which breaks its block for prefixes."""
        self._state[offset] = state
        self._free -= 1
        self._singles.discard(offset)
        block = offset // PREFIX_ADDRESSES
        self._taken_in_block[block] += 1
        self._other_blocks.discard(block)
        self._reserved_blocks.discard(block)

    def _take_block(self, block: int) -> None:
        """Use all addresses of a whole block."""
        start = block * PREFIX_ADDRESSES
        end = start + PREFIX_ADDRESSES
        self._state[start:end] = bytes((_IN_PREFIX,)) * PREFIX_ADDRESSES
        self._free -= PREFIX_ADDRESSES
        self._taken_in_block[block] = PREFIX_ADDRESSES
        self._reserved_blocks.discard(block)
        self._other_blocks.discard(block)
        for offset in range(start, end):
            self._singles.discard(offset)

    def _has_explicit(self, block: int) -> bool:
        """Tell whether an `EXPLICIT` reservation keeps an address of the block."""
        start = block * PREFIX_ADDRESSES
        return 1 in self._explicit[start : start + PREFIX_ADDRESSES]

    def check(self) -> None:
        """Recompute every count from the bitmap; AssertionError where one is wrong."""
        assert self._free == self._state.count(_FREE), self.subnet_id
        for block, taken in enumerate(self._taken_in_block):
            start = block * PREFIX_ADDRESSES
            states = self._state[start : start + PREFIX_ADDRESSES]
            assert taken == PREFIX_ADDRESSES - states.count(_FREE), block
            assert states.count(_IN_PREFIX) in (0, PREFIX_ADDRESSES), block
            reserved = bool(self._prefix_block[block])
            whole = taken == 0 and not self._has_explicit(block)
            assert (block in self._reserved_blocks) == (whole and reserved), block
            assert (block in self._other_blocks) == (whole and not reserved), block
            for offset in range(start, start + PREFIX_ADDRESSES):
                free = self._state[offset] == _FREE and not reserved and not self._explicit[offset]
                assert (offset in self._singles) == free, offset
