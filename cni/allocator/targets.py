"""How large the warm pool should be: pure arithmetic, no state, no clock.

A node follows exactly one warm target. `Settings` picks it once, so that no code here has to
ask which variables were set. Each target answers four questions about counts of the pool, all in
blocks; what triggers growth and how much to ask for differ, as in amazon-vpc-cni-k8s
(`ipamd.go`: isDatastorePoolTooLow, GetENIIPsToAllocate; `data_store.go`: getDeletableENI).
Two more, `low_water` and `high_water`, say how far `available` may move before the answers can
change, so that nobody asks them after every pod.
"""

from dataclasses import dataclass
from math import inf

from cni.allocator.model import PoolCounts


def _blocks_for(addresses: int, counts: PoolCounts) -> int:
    """Blocks that hold that many addresses."""
    return -(-addresses // counts.addresses_per_block)


@dataclass(frozen=True, slots=True)
class WarmIp:
    """Keep `warm` addresses available, and never fewer than `minimum` in total.

    `prefixes_kept` is WARM_PREFIX_TARGET where it is set beside an IP target in prefix mode:
    upstream then frees no ENI that leaves fewer free prefixes, though nothing grows for it.
    """

    warm: int
    minimum: int = 0
    prefixes_kept: int = 0

    fills_enis = False

    def __str__(self) -> str:
        """Name it by the variables that are set.

        >>> str(WarmIp(2, 10)), str(WarmIp(0, 10))
        ('WARM_IP_TARGET=2 MINIMUM_IP_TARGET=10', 'MINIMUM_IP_TARGET=10')
        """
        parts = [f"WARM_IP_TARGET={self.warm}"] if self.warm or not self.minimum else []
        if self.minimum:
            parts.append(f"MINIMUM_IP_TARGET={self.minimum}")
        if self.prefixes_kept:
            parts.append(f"WARM_PREFIX_TARGET={self.prefixes_kept}")
        return " ".join(parts)

    def wanted(self, counts: PoolCounts) -> int:
        """Blocks missing to the target.

        >>> WarmIp(warm=2, minimum=10).wanted(
        ...     PoolCounts(addresses_total=4, assigned=3, cooling=0, available=1, blocks_total=4,
        ...                blocks_free=1, addresses_per_block=1, blocks_per_eni=9, enis=1))
        6
        """
        short = max(self.warm - counts.available, self.minimum - counts.addresses_total, 0)
        return _blocks_for(short, counts)

    def surplus(self, counts: PoolCounts) -> int:
        """Blocks that can go without missing the target; in prefix mode, free ones only."""
        if counts.addresses_per_block == 1:
            over_warm = counts.available - self.warm
            over_minimum = counts.addresses_total - self.minimum
            return max(min(over_warm, over_minimum), 0)
        over_warm = counts.blocks_total - _blocks_for(counts.assigned + self.warm, counts)
        over_minimum = counts.blocks_total - _blocks_for(self.minimum, counts)
        return max(min(counts.blocks_free, over_warm, over_minimum), 0)

    @property
    def on_demand(self) -> bool:
        """Whether nothing is kept warm: an IP target always keeps something."""
        return False

    def low_water(self, _counts: PoolCounts) -> int:
        """Addresses available below which blocks are wanted."""
        return self.warm

    def high_water(self, counts: PoolCounts) -> float:
        """Addresses available above which there may be surplus."""
        per = counts.addresses_per_block
        if counts.addresses_total - per < per * _blocks_for(self.minimum, counts):
            return inf
        return self.warm + per - 1

    def frees_enis(self, _counts: PoolCounts) -> bool:
        """Whether it is worth looking for an ENI to detach: always."""
        return True

    def eni_can_go(self, rest: PoolCounts) -> bool:
        """Whether the other ENIs, counted in `rest`, meet the target by themselves."""
        per = rest.addresses_per_block
        return (
            rest.available >= per * _blocks_for(self.warm, rest)
            and rest.addresses_total >= per * _blocks_for(self.minimum, rest)
            and rest.blocks_free >= self.prefixes_kept
        )


@dataclass(frozen=True, slots=True)
class WarmPrefix:
    """Keep `prefixes` prefixes' worth of addresses available; 0 grows on demand only."""

    prefixes: int

    fills_enis = False

    def __str__(self) -> str:
        """Name it by its variable."""
        return f"WARM_PREFIX_TARGET={self.prefixes}"

    def wanted(self, counts: PoolCounts) -> int:
        """Prefixes to ask for: none while enough addresses are available, else at least one."""
        enough = max(self.prefixes * counts.addresses_per_block, 1)
        if counts.available >= enough:
            return 0
        return max(self.prefixes - counts.blocks_free, 1)

    def surplus(self, counts: PoolCounts) -> int:
        """Free prefixes beyond the target."""
        return max(counts.blocks_free - self.prefixes, 0)

    @property
    def on_demand(self) -> bool:
        """Whether nothing is kept warm."""
        return self.prefixes == 0

    def low_water(self, counts: PoolCounts) -> int:
        """Addresses available below which prefixes are wanted."""
        return max(self.prefixes * counts.addresses_per_block, 1)

    def high_water(self, counts: PoolCounts) -> float:
        """Addresses available above which a free prefix may be surplus."""
        return (self.prefixes + 1) * counts.addresses_per_block - 1

    def frees_enis(self, _counts: PoolCounts) -> bool:
        """Whether it is worth looking for an ENI to detach: always, as upstream does."""
        return True

    def eni_can_go(self, rest: PoolCounts) -> bool:
        """Whether the other ENIs hold the free prefixes of the target by themselves."""
        return rest.blocks_free >= self.prefixes


@dataclass(frozen=True, slots=True)
class WarmEni:
    """Keep `enis` ENIs' worth of secondary IPs available; blocks come and go by whole ENIs."""

    enis: int

    fills_enis = True

    def __str__(self) -> str:
        """Name it by its variable."""
        return f"WARM_ENI_TARGET={self.enis}"

    def wanted(self, counts: PoolCounts) -> int:
        """Secondary IPs missing to the target; whoever asks rounds up to whole ENIs."""
        enough = self.enis * counts.blocks_per_eni
        if self.enis == 0:
            return 1 if counts.available == 0 else 0
        return max(enough - counts.available, 0)

    def surplus(self, _counts: PoolCounts) -> int:
        """Return 0: single secondary IPs never go, whole ENIs do."""
        return 0

    @property
    def on_demand(self) -> bool:
        """Whether nothing is kept warm."""
        return self.enis == 0

    def low_water(self, counts: PoolCounts) -> int:
        """Addresses available below which secondary IPs are wanted."""
        return max(self.enis * counts.blocks_per_eni, 1)

    def high_water(self, counts: PoolCounts) -> float:
        """Addresses available above which an ENI may be surplus."""
        return (self.enis + 1) * counts.blocks_per_eni - 1

    def frees_enis(self, counts: PoolCounts) -> bool:
        """Whether one ENI's worth is available beyond the target."""
        return counts.available >= (self.enis + 1) * counts.blocks_per_eni

    def eni_can_go(self, rest: PoolCounts) -> bool:
        """Whether the other ENIs meet the target by themselves."""
        return rest.available >= self.enis * rest.blocks_per_eni


WarmTarget = WarmIp | WarmPrefix | WarmEni
