"""Numbered places, and which of them are ready: the order in which ENIs and blocks are chosen.

Every choice among ENIs, or among the prefixes of an ENI, goes through one integer whose bits
are the places with a free address, so that choosing costs the same with 20 and with 700 pods.
Two orders are built on it. Lowest place first, for packing. And an emulated Go map, because
upstream iterates over maps: places are grouped in buckets of eight, an iteration starts at a
random bucket and a random place within it, and runs on in a ring. With fewer than eight
entries that is far from even (of two, the first is picked 7 times in 8), which decides how
often upstream leaves a prefix free or an ENI stranded (Go runtime: `mapiterinit`).
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

BUCKET = 8
LOAD_MAX = 6.5
"""Entries for each bucket before a Go map doubles its buckets (runtime: `loadFactorNum`)."""

_MASK64 = 0xFFFFFFFFFFFFFFFF

Item = TypeVar("Item")


class Dice:
    """A stream of random bits that is part of the allocator's state, so that runs repeat."""

    __slots__ = ("state",)

    def __init__(self, seed: int) -> None:
        """Start the stream of that seed; neighbouring seeds give unrelated streams."""
        mixed = (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & _MASK64
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK64
        self.state = mixed ^ (mixed >> 31)

    def roll(self) -> int:
        """Return 32 random bits: the upper half of Knuth's MMIX linear congruence."""
        self.state = state = (self.state * 6364136223846793005 + 1442695040888963407) & _MASK64
        return state >> 32


class Places(Generic[Item]):
    """Items at numbered places; bit n of `ready` says that the item at place n can be chosen."""

    __slots__ = ("_buckets", "_count", "at", "ready")

    def __init__(self) -> None:
        """Start empty, with one bucket."""
        self.at: list[Item | None] = [None] * BUCKET
        self.ready = 0
        self._buckets = 1
        self._count = 0

    def __iter__(self) -> Iterator[Item]:
        """Yield the items by place."""
        return (item for item in self.at if item is not None)

    def __len__(self) -> int:
        """Return the number of items."""
        return self._count

    def put(self, item: Item, place: int) -> None:
        """Put an item at a free place of the caller's choice."""
        while place >= len(self.at):
            self.at.extend([None] * BUCKET)
        assert self.at[place] is None, place
        self.at[place] = item
        self._count += 1

    def free_place(self) -> int:
        """Return where a Go map would put one more item: the first gap of a bucket.

        Which bucket a key belongs to is a matter of its hash there; here items take turns.
        """
        start = self._count % self._buckets
        for step in range(self._buckets):
            first = ((start + step) % self._buckets) * BUCKET
            for place in range(first, first + BUCKET):
                if self.at[place] is None:
                    return place
        return len(self.at)

    def free_from(self, place: int) -> int:
        """Return the first free place from `place` on."""
        while place < len(self.at) and self.at[place] is not None:
            place += 1
        return place

    @property
    def full(self) -> bool:
        """Whether a Go map would double its buckets before it takes one more item."""
        count = self._count + 1
        return count > BUCKET and count > LOAD_MAX * self._buckets

    def spread(self) -> list[Item]:
        """Double the buckets, empty all places, and return the items to be put again."""
        items = list(self)
        self._buckets *= 2
        self.at = [None] * (BUCKET * self._buckets)
        self.ready = 0
        self._count = 0
        return items

    def remove(self, place: int) -> None:
        """Empty a place; the gap is taken by the next item."""
        self.at[place] = None
        self.ready &= ~(1 << place)
        self._count -= 1

    def lowest(self) -> int:
        """Return the lowest ready place; some place must be ready."""
        return (self.ready & -self.ready).bit_length() - 1

    def shuffled(self, dice: Dice) -> int:
        """Return the ready place that an iteration of a Go map meets first."""
        bits = dice.roll()
        offset = bits & 7
        buckets = self._buckets
        if buckets == 1:
            window = self.ready
            base = 0
        else:
            bucket = (bits >> 3) % buckets
            while not (window := (self.ready >> (bucket * BUCKET)) & 0xFF):
                bucket = (bucket + 1) % buckets
            base = bucket * BUCKET
        ahead = window >> offset
        if ahead:
            return base + offset + (ahead & -ahead).bit_length() - 1
        return base + (window & -window).bit_length() - 1

    def in_ring(self, dice: Dice) -> list[Item]:
        """Return all items in the order in which an iteration of a Go map meets them."""
        bits = dice.roll()
        offset, start = bits & 7, (bits >> 3) % self._buckets
        found: list[Item] = []
        for step in range(self._buckets):
            base = ((start + step) % self._buckets) * BUCKET
            for turn in range(BUCKET):
                item = self.at[base + ((offset + turn) & 7)]
                if item is not None:
                    found.append(item)
        return found
