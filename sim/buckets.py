"""EC2's request limits: one token bucket for each API, shared by all nodes of an account.

Source: EC2 developer guide, "Request throttling for the Amazon EC2 API". Time is an argument,
and levels are integers, so that a bucket neither drifts nor depends on how often it is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class BucketLimit:
    """How many requests at once, and how many a second for ever after."""

    size: int
    refill_per_s: float


class _Bucket:
    """A level in the smallest unit that a nanosecond can add: always a whole number."""

    __slots__ = ("_level", "_per_ns", "_size", "_token", "_updated_ns")

    def __init__(self, limit: BucketLimit) -> None:
        """Start full, at instant 0."""
        rate = Fraction(limit.refill_per_s).limit_denominator(1_000_000)
        self._token = _NANOSECONDS * rate.denominator
        self._per_ns = rate.numerator
        self._size = limit.size * self._token
        self._level = self._size
        self._updated_ns = 0

    def take(self, now: float) -> bool:
        """Take one token if there is one; time never runs backwards."""
        now_ns = round(now * _NANOSECONDS)
        elapsed_ns = now_ns - self._updated_ns
        assert elapsed_ns >= 0, now
        self._updated_ns = now_ns
        self._level = min(self._level + elapsed_ns * self._per_ns, self._size)
        if self._level < self._token:
            return False
        self._level -= self._token
        return True


class RequestBuckets:
    """The buckets of one account in one region; a refused request takes no token."""

    def __init__(self, limits: Mapping[str, BucketLimit]) -> None:
        """Start with full buckets, by name of the API."""
        self._buckets = {api: _Bucket(limit) for api, limit in limits.items()}

    def take(self, api: str, now: float) -> bool:
        """Tell whether EC2 accepts a request at this instant; no bucket means no limit.

        >>> buckets = RequestBuckets({"AttachNetworkInterface": BucketLimit(1, 5)})
        >>> [buckets.take("AttachNetworkInterface", now) for now in (0.0, 0.1, 0.2)]
        [True, False, True]
        """
        bucket = self._buckets.get(api)
        return bucket is None or bucket.take(now)
