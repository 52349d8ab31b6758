"""The daemon's clock: the event loop's own, which is monotonic and starts with the machine."""

import asyncio
from typing import Protocol

from cni.allocator.model import Instant


class Clock(Protocol):
    """What tells the time and lets it pass; the lockstep test has one that it turns by hand."""

    def now(self) -> Instant:
        """Return seconds on a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when the seconds have passed."""
        ...


class LoopClock:
    """The clock by which the running event loop wakes its sleepers."""

    def now(self) -> Instant:
        """Return the loop's time."""
        return Instant(asyncio.get_running_loop().time())

    async def sleep(self, seconds: float) -> None:
        """Sleep on the loop."""
        await asyncio.sleep(seconds)
