"""The kernel's thread: requests in order, each with its own answer or failure, none lost."""

import asyncio
import threading
from typing import Any

import pytest

from cni.daemon.netlink_thread import NetlinkThread


class StubKernel:
    """Remembers who asked what, and in which thread."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.asked: list[int] = []
        self.closed = False

    def ask(self, number: int) -> int:
        assert threading.get_ident() == self.thread
        self.asked.append(number)
        if number % 7 == 3:
            raise ValueError(number)
        return number * 10

    def close(self) -> None:
        self.closed = True


def play(work: Any) -> StubKernel:
    """Run work with a thread whose kernel is a stub."""
    made: list[StubKernel] = []

    def make() -> Any:
        made.append(StubKernel())
        return made[0]

    async def whole() -> None:
        netlink = NetlinkThread(make)
        await work(netlink)
        await netlink.close()

    asyncio.run(whole())
    return made[0]


def test_a_burst_is_answered_one_by_one_and_in_order() -> None:
    """Each gets its own answer; one that fails harms no other."""

    async def work(netlink: NetlinkThread) -> None:
        def ask(number: int) -> Any:
            return netlink.do(lambda kernel: kernel.ask(number))  # type: ignore[attr-defined]

        answers = await asyncio.gather(*map(ask, range(50)), return_exceptions=True)
        for number, answer in enumerate(answers):
            if number % 7 == 3:
                assert isinstance(answer, ValueError)
            else:
                assert answer == number * 10

    assert play(work).asked == list(range(50))


def test_a_request_that_nobody_waits_for_is_done_all_the_same() -> None:
    """A cancelled task leaves the thread in order for the next."""

    async def work(netlink: NetlinkThread) -> None:
        task = asyncio.ensure_future(netlink.do(lambda kernel: kernel.ask(1)))  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        task.cancel()
        assert await netlink.do(lambda kernel: kernel.ask(2)) == 20  # type: ignore[attr-defined]

    assert play(work).asked == [1, 2]


def test_a_kernel_that_cannot_be_made_is_told_to_each(capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever asks hears why, and the next request tries again."""

    def make() -> Any:
        raise OSError("no netlink here")

    async def whole() -> None:
        netlink = NetlinkThread(make)
        for _ in range(2):
            with pytest.raises(OSError, match="no netlink here"):
                await netlink.do(lambda kernel: kernel)
        await netlink.close()

    asyncio.run(whole())
    assert capfd.readouterr().err == ""
