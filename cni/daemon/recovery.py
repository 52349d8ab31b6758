"""What the daemon does about its earlier life: ledger, EC2, kernel and tombstones put together.

The ledger says who held what; EC2 says which addresses the node has; the kernel says which links
live. No live pod loses its address, and no address is held twice. What cannot stand is told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

import structlog

from cni import wire
from cni.allocator.allocator import Allocator
from cni.allocator.model import Assignment, AttachedEni, EniId, Instant
from cni.cloud.calls import CallError
from cni.daemon.caller import Caller
from cni.daemon.commands import Commands
from cni.daemon.holdings import Holding
from cni.daemon.ledger import LedgerError
from cni.daemon.netlink_thread import NetlinkThread
from cni.daemon.sandboxes import Books, Sandboxes
from cni.daemon.tombstones import read_tombstones, remove_tombstones
from cni.network.desired import EniNetwork
from cni.network.netlink import NetworkError

SET_UP_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses between attempts to set up an ENI on which sandboxes live."""


def assignments_of(
    holdings: Iterable[Holding], now: Instant, unix_now: float
) -> tuple[Assignment, ...]:
    """Return the ledger's holdings in the allocator's words, on the clock of this process."""
    return tuple(
        Assignment(
            holding.sandbox,
            holding.address,
            holding.eni_id,
            holding.device_index,
            Instant(now - max(unix_now - holding.since_unix, 0.0)),
        )
        for holding in holdings
    )


def cooling_of(
    released: Iterable[tuple[IPv4Address, float]], now: Instant, unix_now: float, cooldown_s: float
) -> tuple[tuple[IPv4Address, Instant], ...]:
    """Return which addresses cool on, and until when on the clock of this process.

    A clock that was set back in between must not make an address cool for longer than a cooldown.
    """
    return tuple(
        (address, Instant(now + min(left, cooldown_s)))
        for address, released_unix in released
        if (left := released_unix + cooldown_s - unix_now) > 0
    )


class NotSetUp(Exception):  # noqa: N818 - named for what it says
    """An ENI on which sandboxes live cannot be set up; one line that says why and what to do."""


class EniLinks(Protocol):
    """Who sets an ENI up on the node."""

    async def install(self, eni: AttachedEni) -> None:
        """Make the kernel ready for it; NetworkError or CallError where that cannot be yet."""
        ...


async def set_up(
    enis: Iterable[AttachedEni],
    lived_on: Collection[EniId],
    links: EniLinks,
    sleep: Callable[[float], Awaitable[None]],
    log: structlog.stdlib.BoundLogger,
) -> list[AttachedEni]:
    """Set up the ENIs that EC2 shows, and return those that can be used.

    One that cannot be used is left out, unless sandboxes of an earlier life have addresses of it:
    left out, they would be taken for strays and lose their network, for a metadata service that
    did not answer for a second. It is tried again, and NotSetUp raised in the end.
    """
    usable = []
    for eni in enis:
        pauses = iter(SET_UP_PAUSES_S if eni.eni_id in lived_on else ())
        while True:
            try:
                await links.install(eni)
            except (NetworkError, CallError) as error:
                pause = next(pauses, None)
                if pause is None and eni.eni_id in lived_on:
                    raise NotSetUp(
                        f"sandboxes live on {eni.eni_id}, which cannot be set up: {error}"
                    ) from error
                if pause is None:
                    log.warning("ENI left out", eni=eni.eni_id, error=str(error))
                    break
                log.warning("ENI is tried again", eni=eni.eni_id, error=str(error), after_s=pause)
                await sleep(pause)
            else:
                usable.append(eni)
                break
    return usable


async def restore(  # noqa: PLR0913, PLR0917 - what an earlier life is made of
    holdings: Iterable[Holding],
    allocator: Allocator,
    sandboxes: Sandboxes,
    ledger: Books,
    unix_now: Callable[[], float],
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Take in the holdings that stand, and write off those whose address the node has lost."""
    for line in allocator.dropped:
        log.error("assignment lost", problem=line)
    for holding in holdings:
        if allocator.find(holding.sandbox) is None:
            try:
                await ledger.released(holding.sandbox, holding.address, unix_now())
            except LedgerError as error:
                # The next start finds and drops it again; a full disk stops no start.
                log.warning("assignment not written off yet", error=str(error))
        else:
            sandboxes.restore(holding)


async def clear_strays(
    sandboxes: Sandboxes,
    netlink: NetlinkThread,
    enis: tuple[EniNetwork, ...],
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Remove links, rules and routes of ours that nobody needs: what a crash left behind."""
    pods = tuple(sandboxes.pod(holding) for holding in sandboxes.holdings.values())
    try:
        lines = await netlink.do(lambda kernel: kernel.remove_strays(pods, enis))
    except NetworkError as error:
        # What is left stands in nobody's way for now; running pods need a daemon more.
        log.warning("what an earlier life left behind is still there", error=str(error))
        return
    for line in lines:
        log.warning("removed what an earlier life left behind", what=line)


async def bury(folder: Path, commands: Commands, log: structlog.stdlib.BoundLogger) -> None:
    """Do the DELs that found no daemon; each file goes when its DEL has succeeded."""
    spool = await asyncio.to_thread(read_tombstones, folder)
    done = list(spool.junk)
    problems = list(spool.problems)
    for tombstone in spool.tombstones:
        name = tombstone.path.name
        try:
            variables, stdin = wire.decode_request(tombstone.body)
        except ValueError as error:
            problems.append(f"tombstone {name} cannot be read, and goes: {error}")
            done.append(tombstone.path)
            continue
        code, said = await commands.answer(variables, stdin, Caller())
        if code == 0:
            log.info("DEL done that had found no daemon", file=name)
            done.append(tombstone.path)
        else:
            problems.append(f"tombstone {name} stays for the next start: {said.decode().strip()}")
    if done:
        problems += await asyncio.to_thread(remove_tombstones, folder, done)
    for problem in problems:
        log.warning("tombstones", problem=problem)
