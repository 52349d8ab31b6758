"""How many addresses were assigned lately: highest, lowest, and how often the trend turned.

Kept in buckets of time, so that the path of each pod compares two numbers: what is asked of
the last `s` seconds is answered for at least those, and at most a bucket more. Turns tell churn
from one deployment that came and went: going up and down again is one turn, pods that come
and go all the time make many.
"""

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import NamedTuple


class Bucket(NamedTuple):
    """A stretch of time: when it ended, its extremes, its first and its last value."""

    ended: float
    high: int
    low: int
    first: int
    last: int

    def steps_backwards(self) -> Iterator[int]:
        """Yield the trends that its values give away, 1 for up and -1 for down, last one first."""
        above = self.high > max(self.first, self.last)
        below = self.low < min(self.first, self.last)
        if above:
            yield -1
            yield 1
        if below:
            yield 1
            yield -1
        if not above and not below and self.last != self.first:
            yield 1 if self.last > self.first else -1


class Extremes:
    """A step function's extremes over the last `memory_s` seconds."""

    __slots__ = ("_first", "_past", "_width", "high", "low", "memory_s", "until")

    def __init__(self, memory_s: float, width_s: float, value: int, now: float) -> None:
        """Start with one value, now; `width_s` is a bucket's."""
        self.memory_s = memory_s
        self._width = width_s
        self._past: deque[Bucket] = deque()
        self.high = self.low = self._first = value
        """Extremes of the present bucket: a change within them need not be told."""
        self.until = now + width_s
        """End of the present bucket: the first change after it must be told."""

    def observe(self, before: int, after: int, now: float) -> None:
        """Hear of a change beyond the present bucket's extremes, or after its end.

        `before` is what the value has been since the last change.
        """
        if now >= self.until:
            self._close(before, now)
        if after > self.high:
            self.high = after
        elif after < self.low:
            self.low = after

    def _close(self, before: int, now: float) -> None:
        self._past.append(Bucket(self.until, self.high, self.low, self._first, before))
        if now >= self.until + self._width:
            self._past.append(Bucket(now, before, before, before, before))
        while self._past and self._past[0].ended + self.memory_s <= now:
            self._past.popleft()
        self.high = self.low = self._first = before
        self.until = now + self._width

    def over(self, seconds: float, value: int, now: float) -> tuple[int, int]:
        """Return the highest and lowest value of the last seconds; `value` is the present one."""
        self.observe(value, value, now)
        high, low = self.high, self.low
        for bucket in self._since(seconds, now):
            high = max(high, bucket.high)
            low = min(low, bucket.low)
        return high, low

    def turns(self, seconds: float, now: float) -> int:
        """Return how often the value turned from rising to falling or back, in the last seconds.

        Within a bucket only what its extremes give away is seen: a rise above both its first
        and its last value, and a fall below both.
        """
        turns = trend = 0
        for bucket in self._since(seconds, now):
            for step in bucket.steps_backwards():
                turns += step == -trend
                trend = step
        return turns

    def _since(self, seconds: float, now: float) -> Iterator[Bucket]:
        # The sum is the one that `changes_at` tells: a difference could round the other way.
        for bucket in reversed(self._past):
            if bucket.ended + seconds <= now:
                return
            yield bucket

    def changes_at(self, seconds: float, now: float) -> float:
        """Return when, if the value does not change, `over` the same seconds may: or inf."""
        within = list(self._since(seconds, now))
        if self.high == self.low and all(b.high == b.low == self.high for b in within):
            return inf
        return (within[-1].ended if within else self.until) + seconds
