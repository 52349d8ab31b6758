"""Work that lasts as long as the daemon: whatever ends it is a fault of ours, and it begins anew.

A look that stops for good is not noticed until it is missed: by a lost DEL, a stale SNAT rule, or
a leaked ENI, days later.
"""

from collections.abc import Awaitable, Callable

import structlog

AGAIN_AFTER_S = 30.0
"""Pause before the work begins anew: a fault that repeats must not fill the log."""


async def endlessly(
    work: Callable[[], Awaitable[None]],
    name: str,
    sleep: Callable[[float], Awaitable[None]],
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Do the work until cancelled; where it ends, tell, and begin it again after a pause."""
    while True:
        try:
            await work()
            log.error("ended", task=name)
        except Exception:
            log.exception("ended", task=name)
        await sleep(AGAIN_AFTER_S)
