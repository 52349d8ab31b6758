"""Whether the instance metadata shows other ENIs or addresses than the pool: then EC2 is asked.

Nobody tells a node that somebody else removed an address, or detached an ENI. The metadata costs
no request to EC2, but lags behind it: only a difference that two looks in a row found counts, and
none of it is believed before EC2 itself has been asked. One that stays all the same (an ENI that
the kernel cannot use, say) is asked about ever more rarely.
Source: amazon-vpc-cni-k8s, ipamd.go:1570, which compares once a minute.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable

import structlog

from cni.allocator.allocator import Allocator
from cni.allocator.model import AttachedEni
from cni.cloud.calls import CallError
from cni.cloud.identity import MetadataEni
from cni.daemon.clock import Clock

AGAIN_MAX_S = 3600.0


def differences(
    pool: Iterable[AttachedEni], shown: Iterable[AttachedEni], taken: Collection[int]
) -> frozenset[str]:
    """Tell in a few words each how two views of a node differ; `taken` are indices of no concern.

    >>> eni = AttachedEni("eni-1", 1, None, ())
    >>> sorted(differences([eni], [], ())), sorted(differences([], [eni], {1}))
    (['eni-1 is not there'], [])
    """
    here = {eni.eni_id: eni for eni in pool}
    there = {eni.eni_id: eni for eni in shown if eni.device_index not in taken}
    found = {f"{eni_id} is not there" for eni_id in here.keys() - there.keys()}
    found |= {f"{eni_id} is not in the pool" for eni_id in there.keys() - here.keys()}
    for eni_id in here.keys() & there.keys():
        ours, theirs = set(here[eni_id].blocks), set(there[eni_id].blocks)
        found |= {f"{eni_id} lacks {block}" for block in ours - theirs}
        found |= {f"{eni_id} has {block}" for block in theirs - ours}
    return frozenset(found)


class Comparison:
    """Remembers what the last look found, and what EC2 was asked about."""

    def __init__(self) -> None:
        """Have found nothing."""
        self._before: frozenset[str] = frozenset()
        self._asked: frozenset[str] = frozenset()
        self._again_at = 0.0
        self._pause_s = 0.0

    def look(self, found: frozenset[str], now: float, period_s: float) -> str:
        """Return why EC2 is to be asked; empty where it is not."""
        lasting = found & self._before
        self._before = found
        if not lasting:
            self._asked = frozenset()
            return ""
        if lasting == self._asked and now < self._again_at:
            return ""
        self._pause_s = min(self._pause_s * 2, AGAIN_MAX_S) if lasting == self._asked else period_s
        self._again_at = now + self._pause_s
        self._asked = lasting
        more = f" and {len(lasting) - 1} more" if len(lasting) > 1 else ""
        return f"the metadata differs: {min(lasting)}{more}"


async def watch(  # noqa: PLR0913, PLR0917 - who is compared with whom, and who hears of it
    allocator: Allocator,
    metadata: Callable[[], Awaitable[tuple[MetadataEni, ...]]],
    taken: Collection[int],
    poke: Callable[[], None],
    clock: Clock,
    period_s: float,
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Compare once a period, for ever; what is being changed just now is not compared."""
    comparison = Comparison()
    while True:
        await clock.sleep(period_s)
        try:
            shown = [each.eni for each in await metadata()]
        except CallError as error:
            log.warning("the metadata is not compared", error=str(error))
            continue
        if allocator.in_flight:
            continue
        now = clock.now()
        why = comparison.look(differences(allocator.enis(), shown, taken), now, period_s)
        if why:
            log.warning("EC2 is asked what the node has", why=why)
            allocator.suspect(why, now)
            poke()
