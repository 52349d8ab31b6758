"""The sweep for ENIs that dead nodes left behind: they hold addresses that nobody can use.

A node that dies between creating an ENI and attaching it, or before detached ENIs are deleted,
leaves them available for ever. Every node looks, once an hour and at a time of its own, over
the whole VPC or the cluster that it is told, since the dead cannot. `judge` decides and is
pure; `LeakSweep` performs.
Source: amazon-vpc-cni-k8s, awsutils.go:2294-2435; unlike there an ENI whose age cannot be read
is left alone, and not deleted in the pass that found it.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cni.allocator.actions import FailureReason
from cni.allocator.model import EniId
from cni.cloud.calls import CallError
from cni.cloud.described import DescribedEni
from cni.cloud.tags import (
    CLUSTER,
    CREATED_AT,
    DESCRIPTION_PREFIX,
    INSTANCE_ID,
    read_timestamp,
    timestamp,
)

PERIOD_S = 3600.0
JITTER_S = 300.0
AGE_MIN_S = 300.0
"""An ENI younger than this may be on its way to the node that made it."""

_HOPELESS = (FailureReason.DENIED, FailureReason.THROTTLED)


class LeakCloud(Protocol):
    """What the sweep needs of `cni.cloud.ec2.Ec2`."""

    async def leaked_candidates(self) -> tuple[DescribedEni, ...]:
        """Describe the detached ENIs that nodes made."""
        ...

    async def delete_eni(self, eni_id: EniId) -> None:
        """Delete one."""
        ...

    async def tag_eni(self, eni_id: EniId, tags: Mapping[str, str]) -> None:
        """Tag one."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with ENIs that nobody holds, in the order in which they were given.

    `undated` have no age and get one, to be judged in a later pass; `unreadable` have one that
    makes no sense, and a person must look.
    """

    leaked: tuple[DescribedEni, ...] = ()
    undated: tuple[DescribedEni, ...] = ()
    unreadable: tuple[DescribedEni, ...] = ()


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one pass did; `problems` are one line each."""

    deleted: tuple[EniId, ...] = ()
    dated: tuple[EniId, ...] = ()
    problems: tuple[str, ...] = ()


def judge(candidates: Iterable[DescribedEni], unix: float, cluster_name: str) -> Verdict:
    """Tell which ENIs are leaked at an instant in seconds since the epoch.

    EC2's filters have asked for the same; but what deletes looks for itself.
    """
    ours = [eni for eni in candidates if _is_ours(eni, cluster_name)]
    dates = {eni.eni_id: read_timestamp(eni.tags.get(CREATED_AT, "")) for eni in ours}
    leaked = []
    for eni in ours:
        created = dates[eni.eni_id]
        if created is not None and unix - created >= AGE_MIN_S:
            leaked.append(eni)
    return Verdict(
        leaked=tuple(leaked),
        undated=tuple(eni for eni in ours if CREATED_AT not in eni.tags),
        unreadable=tuple(
            eni for eni in ours if CREATED_AT in eni.tags and dates[eni.eni_id] is None
        ),
    )


def _is_ours(eni: DescribedEni, cluster_name: str) -> bool:
    """Tell whether a node made the ENI, of this cluster if it has a name, and nobody holds it."""
    return (
        eni.status == "available"
        and not eni.attachment_id
        and eni.description.startswith(DESCRIPTION_PREFIX)
        and INSTANCE_ID in eni.tags
        and (not cluster_name or eni.tags.get(CLUSTER) == cluster_name)
    )


class LeakSweep:
    """Looks for leaked ENIs once an hour, for ever; each node at a time of its own.

    `uniform` returns a number from 0 to 1. `report` hears of every pass.
    """

    def __init__(  # noqa: PLR0913 - clock and chance are the caller's, each by its name
        self,
        cloud: LeakCloud,
        cluster_name: str,
        *,
        unix: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        uniform: Callable[[], float],
        report: Callable[[SweepReport], None],
    ) -> None:
        """Do nothing yet."""
        self._cloud = cloud
        self._cluster_name = cluster_name
        self._unix = unix
        self._sleep = sleep
        self._uniform = uniform
        self._report = report

    async def run(self) -> None:
        """Sweep until cancelled; the hour begins when a pass is over."""
        while True:
            await self._sleep(self._uniform() * JITTER_S)
            self._report(await self.sweep())
            await self._sleep(PERIOD_S)

    async def sweep(self) -> SweepReport:
        """Make one pass; a failure is reported and never raised."""
        try:
            candidates = await self._cloud.leaked_candidates()
        except CallError as error:
            return SweepReport(problems=(f"leaked ENIs cannot be described: {error}",))
        verdict = judge(candidates, self._unix(), self._cluster_name)
        problems = [
            f"{eni.eni_id} is left alone: its tag {CREATED_AT} is {eni.tags[CREATED_AT]!r}, "
            "which is no RFC 3339 time; correct the tag or delete the ENI"
            for eni in verdict.unreadable
        ]
        now = timestamp(self._unix())
        dated = await self._each(
            verdict.undated,
            lambda eni: self._cloud.tag_eni(eni.eni_id, {CREATED_AT: now}),
            problems,
        )
        deleted = await self._each(
            verdict.leaked, lambda eni: self._cloud.delete_eni(eni.eni_id), problems
        )
        return SweepReport(deleted, dated, tuple(problems))

    async def _each(
        self,
        enis: Iterable[DescribedEni],
        do: Callable[[DescribedEni], Awaitable[None]],
        problems: list[str],
    ) -> tuple[EniId, ...]:
        """Do something with each ENI; return those with which it was done."""
        done = []
        for eni in enis:
            try:
                await do(eni)
            except CallError as error:
                if error.reason is FailureReason.ENI_GONE:
                    # Another node was quicker.
                    continue
                problems.append(f"{eni.eni_id}: {error}")
                if error.reason in _HOPELESS:
                    # The next would fail alike; the next pass, or another node, may not.
                    break
            else:
                done.append(eni.eni_id)
        return tuple(done)
