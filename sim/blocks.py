"""Which ENI holds which block: what every address of every ENI can be looked up in.

Sits between `sim/subnet.py`, which knows addresses, and `sim/vpc.py`, which knows ENIs.
"""

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Network

from cni.allocator.model import Block, BlockKind, EniId
from sim.subnet import PREFIX_ADDRESSES, Subnet

BlockKey = tuple[int, int]
"""First address and mask length: cheaper to hash than the block itself."""

_OBJECTS_MAX = 65_536


def key_of(block: Block) -> BlockKey:
    """Return the key of a block."""
    return int(block.network_address), block.prefixlen


class HeldBlocks:
    """The blocks of all ENIs of a VPC, by address; primary addresses are not among them."""

    def __init__(self) -> None:
        """Start with no block."""
        self._single_holders: dict[int, EniId] = {}
        # By address // 16, so that one entry answers for sixteen addresses.
        self._prefix_holders: dict[int, EniId] = {}
        self._objects: dict[BlockKey, Block] = {}

    def take(
        self, eni_id: EniId, subnet: Subnet, kind: BlockKind, count: int
    ) -> dict[BlockKey, Block]:
        """Take blocks of the subnet's choice for an ENI, all or none; Ec2Error if too few."""
        if kind is BlockKind.PREFIX:
            addresses = subnet.take_prefixes(count)
            for address in addresses:
                self._prefix_holders[address // PREFIX_ADDRESSES] = eni_id
        else:
            addresses = subnet.take_singles(count)
            for address in addresses:
                self._single_holders[address] = eni_id
        length = kind.value
        keys = [(address, length) for address in addresses]
        return {key: self._object(key) for key in keys}

    def give_back(self, subnet: Subnet, keys: Iterable[BlockKey]) -> None:
        """Give blocks back to the subnet they are of."""
        for address, length in keys:
            if length == BlockKind.PREFIX.value:
                del self._prefix_holders[address // PREFIX_ADDRESSES]
                subnet.give_back_prefix(address)
            else:
                del self._single_holders[address]
                subnet.give_back_single(address)

    def holder_of(self, address: int) -> EniId | None:
        """Return the ENI that has the address in one of its blocks. O(1)."""
        holder = self._single_holders.get(address)
        return holder or self._prefix_holders.get(address // PREFIX_ADDRESSES)

    def check(self, blocks_of: dict[EniId, Iterable[BlockKey]]) -> None:
        """Recompute the look-up from the ENIs' own blocks; AssertionError where they differ."""
        singles: dict[int, EniId] = {}
        prefixes: dict[int, EniId] = {}
        for eni_id, keys in blocks_of.items():
            for address, length in keys:
                if length == BlockKind.PREFIX.value:
                    assert address % PREFIX_ADDRESSES == 0, eni_id
                    holders, place = prefixes, address // PREFIX_ADDRESSES
                else:
                    holders, place = singles, address
                assert holders.setdefault(place, eni_id) == eni_id, eni_id
        assert singles == self._single_holders
        assert prefixes == self._prefix_holders
        assert not {address // PREFIX_ADDRESSES for address in singles} & prefixes.keys()

    def _object(self, key: BlockKey) -> Block:
        """Return the block's one object: making it anew costs microseconds each time.

        As many as a /16 has addresses are kept, so that memory stays bounded in larger ones.
        """
        block = self._objects.get(key)
        if block is None:
            if len(self._objects) >= _OBJECTS_MAX:
                self._objects.clear()
            block = self._objects[key] = IPv4Network(key)
            with suppress(AttributeError):
                # Python gives each /32 a function of its own that lists its one host: 200 bytes
                # of the 1,300 that an address takes, and nobody asks for them.
                del block.hosts
        return block
