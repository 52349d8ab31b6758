"""Background work goes on whatever happens to it."""

import asyncio
from contextlib import suppress

import structlog

from cni.daemon.endless import AGAIN_AFTER_S, endlessly
from tests.daemon import virtual_loop


def test_work_that_ends_begins_again() -> None:
    """A fault, or a plain end, costs one pause and not the rest of the daemon's life."""
    begun: list[float] = []

    async def work() -> None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) == 1:
            raise OSError("a fault that nobody thought of")

    async def script() -> None:
        log = structlog.stdlib.get_logger()
        task = asyncio.create_task(endlessly(work, "a test", asyncio.sleep, log))
        await asyncio.sleep(2.5 * AGAIN_AFTER_S)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    virtual_loop.run(script())
    assert len(begun) == 3
    assert begun[2] - begun[0] == 2 * AGAIN_AFTER_S
