"""The one thread that talks to the kernel, so that the event loop never waits for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cni.network.netlink import Kernel

Answer = TypeVar("Answer")


class NetlinkThread:
    """A thread with a `Kernel` of its own; requests run one after the other, in order."""

    def __init__(self, make: Callable[[], Kernel]) -> None:
        """Start the thread; `make` runs in it, since a Kernel belongs to its thread."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._kernel = self._executor.submit(make).result()

    async def do(self, request: Callable[[Kernel], Answer]) -> Answer:
        """Run a request in the thread and return its answer, or raise what it raised."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, request, self._kernel)

    def close(self) -> None:
        """Finish what was asked for, then close the kernel's sockets and the thread."""
        self._executor.submit(self._kernel.close).result()
        self._executor.shutdown()
