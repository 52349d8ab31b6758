"""A thread that talks to the kernel, so that the event loop never waits for it."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from cni.daemon.worker import Worker
from cni.network.netlink import Kernel

Answer = TypeVar("Answer")
Request = Callable[[Kernel], Any]


class NetlinkThread:
    """A thread with a `Kernel` of its own; requests run one after the other, in order.

    Requests that come while the thread works go to it together when it is done: a burst of ADDs
    costs one way there and one way back.
    """

    def __init__(self, make: Callable[[], Kernel]) -> None:
        """Start nothing yet; `make` runs in the thread, since a Kernel belongs to its thread."""
        self._make = make
        self._kernel: Kernel | None = None
        self._worker = Worker("netlink")
        self._queue: list[tuple[Request, asyncio.Future[Any]]] = []
        self._working = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def do(self, request: Callable[[Kernel], Answer]) -> Answer:
        """Run a request in the thread and return its answer, or raise what it raised."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((request, answered))
        if not self._working:
            self._send()
        return await answered

    def _send(self) -> None:
        """Hand all that waits to the thread."""
        batch, self._queue = self._queue, []
        answers: list[tuple[Any, Exception | None]] = []
        self._working = True
        self._idle.clear()

        def work() -> None:
            if self._kernel is None:
                self._kernel = self._make()
            for request, _ in batch:
                try:
                    answers.append((request(self._kernel), None))
                except Exception as error:  # noqa: BLE001 - raised where the request was made
                    answers.append((None, error))

        self._worker.do(work, lambda broken: self._answer(batch, answers, broken))

    def _answer(
        self,
        batch: list[tuple[Request, asyncio.Future[Any]]],
        answers: list[tuple[Any, Exception | None]],
        broken: BaseException | None,
    ) -> None:
        self._working = False
        missing = len(batch) - len(answers)
        answers += [(None, _as_error(broken))] * missing
        for (_, answered), (answer, error) in zip(batch, answers, strict=True):
            if answered.done():
                continue  # Whoever asked was cancelled.
            if error is None:
                answered.set_result(answer)
            else:
                answered.set_exception(error)
        if self._queue:
            self._send()
        else:
            self._idle.set()

    async def close(self) -> None:
        """Finish what was asked for, then close the kernel's sockets and the thread."""
        await self._idle.wait()
        if self._kernel is not None:
            await self.do(lambda kernel: kernel.close())
        await asyncio.to_thread(self._worker.stop)


def _as_error(broken: BaseException | None) -> Exception:
    """Return why the thread did not get to a request."""
    return broken if isinstance(broken, Exception) else RuntimeError(f"netlink thread: {broken!r}")
