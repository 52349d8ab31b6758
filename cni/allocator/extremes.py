"""How many addresses were assigned lately: the highest and lowest number in a sliding window.

Kept in a dozen buckets of time, so that the path of each pod compares two numbers and the
window is exact to a twelfth of its length: it never forgets too early.
"""

from collections import deque
from math import inf

BUCKETS = 12


class Extremes:
    """Highest and lowest value of a step function over the last `window_s` seconds."""

    __slots__ = ("_past", "_width", "high", "low", "until", "window_s")

    def __init__(self, window_s: float, value: int, now: float) -> None:
        """Start with one value, now."""
        self.window_s = window_s
        self._width = window_s / BUCKETS
        self._past: deque[tuple[float, int, int]] = deque()
        self.high = self.low = value
        self.until = now + self._width

    def widen(self, window_s: float) -> None:
        """Look further back from now on; what is forgotten stays forgotten."""
        self.window_s = window_s
        self._width = window_s / BUCKETS

    def observe(self, before: int, after: int, now: float) -> None:
        """Hear that the value changed; a change within the present bucket's range may be left out.

        `before` is what the value has been since the last change.
        """
        if now >= self.until:
            self._past.append((self.until, self.high, self.low))
            if now >= self.until + self._width:
                self._past.append((now, before, before))
            self._forget(now)
            self.high = self.low = before
            self.until = now + self._width
        self.high = max(self.high, after)
        self.low = min(self.low, after)

    def _forget(self, now: float) -> None:
        # The same sum as in `changes_at`: a wake-up at that very instant must find the bucket old.
        while self._past and self._past[0][0] + self.window_s <= now:
            self._past.popleft()

    def over_window(self, value: int, now: float) -> tuple[int, int]:
        """Return the highest and lowest value of the window; `value` is the present one."""
        self.observe(value, value, now)
        self._forget(now)
        high = max((high for _, high, _ in self._past), default=self.high)
        low = min((low for _, _, low in self._past), default=self.low)
        return max(high, self.high), min(low, self.low)

    @property
    def changes_at(self) -> float:
        """The next instant at which the window's extremes may change, if the value does not."""
        if self.high == self.low and all(high == low == self.high for _, high, low in self._past):
            return inf
        return (self._past[0][0] if self._past else self.until) + self.window_s
