"""Sandboxes whose link is gone though no DEL came: a lost DEL must not hold an address for ever.

A missing link alone is only a suspicion: an ADD or a DEL may be under way, or the daemon may look
through a short gap. It takes two looks, `LOOK_S` apart, with no command for the sandbox meanwhile.
"""

from collections.abc import Collection, Iterable

import structlog

from cni.allocator.model import SandboxKey
from cni.daemon.clock import Clock
from cni.daemon.holdings import Holding
from cni.daemon.netlink_thread import NetlinkThread
from cni.daemon.sandboxes import Sandboxes
from cni.network.netlink import NetworkError
from cni.spec.errors import CniError

LOOK_S = 30.0


class Vanished:
    """Remembers who was missing at the last look."""

    def __init__(self) -> None:
        """Suspect nobody."""
        self._suspects: frozenset[Holding] = frozenset()

    def look(
        self, holdings: Iterable[Holding], busy: Collection[SandboxKey], links: Collection[str]
    ) -> tuple[Holding, ...]:
        """Return who is missing for the second time in a row; PURE but for the memory."""
        missing = [
            holding
            for holding in holdings
            if holding.host_link not in links and holding.sandbox not in busy
        ]
        gone = tuple(holding for holding in missing if holding in self._suspects)
        self._suspects = frozenset(missing) - frozenset(gone)
        return gone


async def watch(
    sandboxes: Sandboxes, netlink: NetlinkThread, clock: Clock, log: structlog.stdlib.BoundLogger
) -> None:
    """Look every LOOK_S seconds, for ever, and give back what nobody uses any more.

    A kernel or a disk that refuses today must not end the watch: what could not be given back
    is missing at the next looks, too.
    """
    vanished = Vanished()
    while True:
        await clock.sleep(LOOK_S)
        try:
            links = await netlink.do(lambda kernel: kernel.host_links())
        except NetworkError as error:
            log.warning("vanished links not looked for", error=str(error))
            continue
        holdings = tuple(sandboxes.holdings.values())
        busy = {holding.sandbox for holding in holdings if sandboxes.is_busy(holding.sandbox)}
        for holding in vanished.look(holdings, busy, links):
            try:
                await sandboxes.forget(holding, "link gone")
            except CniError as error:
                log.warning("sandbox not forgotten yet", error=str(error))
