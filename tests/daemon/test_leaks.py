"""The sweep deletes what dead nodes left behind, and nothing that anybody may still want."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest

from cni.allocator.actions import FailureReason
from cni.allocator.model import BlockKind, EniId
from cni.cloud.calls import CallError
from cni.cloud.described import DescribedEni
from cni.cloud.ec2 import Ec2, Timing
from cni.cloud.imds import Imds
from cni.cloud.options import Ec2Options
from cni.cloud.pace import Pace
from cni.cloud.requests import Asker
from cni.cloud.tags import CLUSTER, CREATED_AT, INSTANCE_ID, timestamp
from cni.daemon.leaks import LeakSweep, SweepReport, Verdict, judge
from sim.lab.account import NewEni
from tests.lab.harness import INSTANCE, SUBNET, Lab, Sleeps, in_a_lab

UNIX = 1_795_000_000.0
OLD = timestamp(UNIX - 300)
YOUNG = timestamp(UNIX - 299)
FUTURE = timestamp(UNIX + 60)

LEAKED = DescribedEni(
    eni_id=EniId("eni-1"),
    status="available",
    interface_type="interface",
    mac="",
    subnet_id=SUBNET,
    description="aws-K8S-i-dead",
    primary_ip=IPv4Address("10.0.0.10"),
    blocks=(),
    device_index=-1,
    network_card=0,
    instance_id="",
    attachment_id="",
    attachment_status="",
    tags={INSTANCE_ID: "i-dead", CREATED_AT: OLD, CLUSTER: "blue"},
)


def tagged(**changes: str | None) -> DescribedEni:
    """Return the leaked ENI with other tags; None takes one away."""
    names = {"created": CREATED_AT, "cluster": CLUSTER, "instance": INSTANCE_ID}
    tags: dict[str, str | None] = {**LEAKED.tags}
    tags |= {names[name]: value for name, value in changes.items()}
    return replace(LEAKED, tags={key: value for key, value in tags.items() if value is not None})


NOTHING = Verdict()


@pytest.mark.parametrize(
    ("eni", "cluster", "expected"),
    [
        (LEAKED, "blue", Verdict(leaked=(LEAKED,))),
        (LEAKED, "", Verdict(leaked=(LEAKED,))),
        (LEAKED, "red", NOTHING),
        (tagged(cluster=None), "blue", NOTHING),
        (tagged(cluster=None), "", Verdict(leaked=(tagged(cluster=None),))),
        (tagged(instance=None), "blue", NOTHING),
        (tagged(created=YOUNG), "blue", NOTHING),
        (tagged(created=FUTURE), "blue", NOTHING),
        (tagged(created=None), "blue", Verdict(undated=(tagged(created=None),))),
        (tagged(created=""), "blue", Verdict(unreadable=(tagged(created=""),))),
        (tagged(created="soon"), "blue", Verdict(unreadable=(tagged(created="soon"),))),
        (
            tagged(created="2026-11-18T12:01:40+01:00"),
            "blue",
            Verdict(leaked=(tagged(created="2026-11-18T12:01:40+01:00"),)),
        ),
        (tagged(created="2026-11-18T12:01:41+01:00"), "blue", NOTHING),
        (replace(LEAKED, status="in-use"), "blue", NOTHING),
        (replace(LEAKED, attachment_id="eni-attach-1"), "blue", NOTHING),
        (replace(LEAKED, description="somebody's"), "blue", NOTHING),
    ],
)
def test_which_enis_are_leaked(eni: DescribedEni, cluster: str, expected: Verdict) -> None:
    """Old enough, free, made by a node of this cluster: only all of them together."""
    assert judge([eni], UNIX, cluster) == expected


@dataclass
class FakeCloud:
    """EC2 as the sweep sees it; `refuses` are the errors of ENIs, by id."""

    candidates: tuple[DescribedEni, ...] = ()
    refuses: dict[EniId, CallError] = field(default_factory=dict)
    did: list[tuple[str, EniId]] = field(default_factory=list)

    async def leaked_candidates(self) -> tuple[DescribedEni, ...]:
        if EniId("") in self.refuses:
            raise self.refuses[EniId("")]
        return self.candidates

    async def delete_eni(self, eni_id: EniId) -> None:
        self._do("delete", eni_id)

    async def tag_eni(self, eni_id: EniId, tags: Mapping[str, str]) -> None:
        assert tags == {CREATED_AT: timestamp(UNIX)}
        self._do("tag", eni_id)

    def _do(self, what: str, eni_id: EniId) -> None:
        self.did.append((what, eni_id))
        if eni_id in self.refuses:
            raise self.refuses[eni_id]


def sweep_of(cloud: FakeCloud, sleeps: Sleeps | None = None) -> LeakSweep:
    """Make a sweep that sleeps in no time."""
    return LeakSweep(
        cloud,
        "blue",
        unix=lambda: UNIX,
        sleep=Sleeps() if sleeps is None else sleeps,
        uniform=lambda: 0.5,
        report=lambda _: None,
    )


def enis(*names: str, eni: DescribedEni = LEAKED) -> tuple[DescribedEni, ...]:
    """Return copies of an ENI."""
    return tuple(replace(eni, eni_id=EniId(name)) for name in names)


def test_what_cannot_be_dated_is_not_deleted_in_the_same_pass() -> None:
    """Upstream tags an unreadable age and deletes at once (trap 11): a person must look instead."""
    cloud = FakeCloud(
        (
            *enis("eni-a", eni=tagged(created=None)),
            *enis("eni-b", eni=tagged(created="soon")),
            *enis("eni-c"),
        )
    )

    report = asyncio.run(sweep_of(cloud).sweep())

    assert cloud.did == [("tag", "eni-a"), ("delete", "eni-c")]
    assert (report.deleted, report.dated) == (("eni-c",), ("eni-a",))
    (problem,) = report.problems
    assert "eni-b" in problem
    assert "soon" in problem


@pytest.mark.parametrize(
    ("reason", "did", "deleted", "problems"),
    [
        (FailureReason.ENI_GONE, 3, 2, 0),
        (FailureReason.OTHER, 3, 2, 1),
        (FailureReason.UNKNOWN_OUTCOME, 3, 2, 1),
        (FailureReason.THROTTLED, 2, 1, 1),
        (FailureReason.DENIED, 2, 1, 1),
    ],
)
def test_one_failure_does_not_end_the_pass_unless_all_would_fail(
    reason: FailureReason, did: int, deleted: int, problems: int
) -> None:
    """What another node deleted first is no problem; a missing permission is one for all."""
    cloud = FakeCloud(enis("eni-a", "eni-b", "eni-c"), {EniId("eni-b"): CallError(reason, "Code")})

    report = asyncio.run(sweep_of(cloud).sweep())

    assert (len(cloud.did), len(report.deleted), len(report.problems)) == (did, deleted, problems)


def test_a_pass_that_cannot_look_reports_it() -> None:
    """An EC2 that does not answer ends the pass, not the daemon."""
    cloud = FakeCloud(refuses={EniId(""): CallError(FailureReason.UNKNOWN_OUTCOME, "Timeout")})

    report = asyncio.run(sweep_of(cloud).sweep())

    assert report == SweepReport(problems=("leaked ENIs cannot be described: Timeout",))


def test_passes_are_an_hour_apart_and_jittered() -> None:
    """Each pass waits up to five minutes first, so that a thousand nodes do not ask at once."""

    class Enough(Exception):  # noqa: N818 - ends an endless loop
        pass

    class Hours(Sleeps):
        async def __call__(self, seconds: float) -> None:
            if len(self) == 4:
                raise Enough
            self.append(seconds)

    hours, reports = Hours(), list[SweepReport]()
    sweep = LeakSweep(
        FakeCloud(enis("eni-a")),
        "blue",
        unix=lambda: UNIX,
        sleep=hours,
        uniform=lambda: 0.5,
        report=reports.append,
    )

    with pytest.raises(Enough):
        asyncio.run(sweep.run())

    assert hours == [150.0, 3600.0, 150.0, 3600.0]
    assert [report.deleted for report in reports] == [("eni-a",), ("eni-a",)]


def test_a_dead_nodes_enis_are_gone_after_a_pass() -> None:
    """End to end through boto3: the leaked ENI goes, and only it; its addresses are free again."""

    async def script(lab: Lab) -> None:
        account, now = lab.cloud.account, lab.clock.now()
        new = NewEni(SUBNET, BlockKind.SECONDARY_IP, 3, "", (), "", "interface", {})
        free = account.vpc.describe_subnets()[0].free
        old = {INSTANCE_ID: "i-dead", CREATED_AT: OLD}
        account.create(replace(new, description="aws-K8S-i-dead", tags=old), now)
        young = account.create(
            replace(new, description="aws-K8S-i-new", tags={**old, CREATED_AT: YOUNG}), now
        )
        undated = account.create(
            replace(new, description="aws-K8S-i-x", tags={INSTANCE_ID: "i-x"}), now
        )
        others = account.create(replace(new, description="mine", tags=old), now)
        held = account.create(replace(new, description="aws-K8S-i", tags=old), now)
        account.attach(held.eni_id, INSTANCE, 1, now)
        imds = Imds(sleep=Sleeps(), endpoint=lab.imds_url)
        timing = Timing(now=lab.clock.now, sleep=Sleeps(), unix=lambda: UNIX, uniform=lambda: 0.5)
        client = lab.client()
        ec2 = Ec2(lambda: client, Asker(await imds.identity(), Ec2Options()), timing, pace=Pace({}))
        sweep = LeakSweep(
            ec2,
            "",
            unix=lambda: UNIX,
            sleep=Sleeps(),
            uniform=lambda: 0.5,
            report=lambda _: None,
        )
        report = await sweep.sweep()
        assert (len(report.deleted), report.dated) == (1, (undated.eni_id,))
        left = {lab.primary, young, undated, others, held}
        assert set(account.vpc.eni_ids) == {eni.eni_id for eni in left}
        assert account.tags_of(undated.eni_id)[CREATED_AT] == timestamp(UNIX)
        assert account.vpc.describe_subnets()[0].free == free - 4 * 4
        assert (await sweep.sweep()) == SweepReport()
        ec2.close()

    in_a_lab(script)
