"""How fast one node may ask EC2: a share of request buckets that the whole account drinks from.

PURE: time is an argument. A node that runs wild is slowed down here, before EC2 refuses its
requests and, with them, those of every other node of the account.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """How many requests at once, and how many a second after those."""

    burst: int
    per_s: float


MUTATING_SHARE = Share(20, 1.0)
"""A fifth of EC2's bucket of 100 and refill of 5 a second: a cold start with 15 ENIs fits."""

DESCRIBING_SHARE = Share(20, 4.0)
"""A fifth of 100 and 20 (EC2 developer guide, "Request throttling for the Amazon EC2 API")."""


class Pace:
    """One bucket for each API; whoever asks gets a place in the queue, told as a wait."""

    def __init__(self, shares: Mapping[str, Share]) -> None:
        """Start full; an API without a share may be asked at any rate."""
        self._shares = dict(shares)
        self._free_at: dict[str, float] = {}

    def reserve(self, api: str, now: float) -> float:
        """Take the next place of an API; return the seconds to wait for it.

        >>> pace = Pace({"A": Share(2, 0.5)})
        >>> [pace.reserve("A", 10.0) for _ in range(4)]
        [0.0, 0.0, 2.0, 4.0]
        """
        share = self._shares.get(api)
        if share is None:
            return 0.0
        # The instant at which the bucket is full again says all: each place moves it on.
        interval = 1 / share.per_s
        full_at = max(self._free_at.get(api, now), now) + interval
        self._free_at[api] = full_at
        return max(full_at - share.burst * interval - now, 0.0)
