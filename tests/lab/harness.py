"""A lab on local ports, with a clock that only tests move, and boto3 to talk to it."""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

import boto3
from botocore.config import Config

from cni.allocator.model import EniId
from sim.cloud_numbers import CloudNumbers
from sim.lab.account import LabVpc
from sim.lab.endpoint import LabCloud
from sim.lab.faults import LabFault, LabRequest
from sim.lab.serving import serving
from sim.node_type import NodeType, named
from sim.streams import Draws, stream
from sim.subnet import Subnet
from sim.vpc import EniDescription, Vpc

INSTANCE = "i-0123456789abcdef0"
SUBNET = "subnet-a"
REGION = "us-west-2"
GROUP = "sg-node"
DEADLINE_S = 10.0
SECRET = "nobody checks it"  # noqa: S105 - and it opens nothing

SESSION = boto3.session.Session(
    aws_access_key_id="AKIATEST",
    aws_secret_access_key=SECRET,
    region_name=REGION,
)


class ManualClock:
    """Time that moves when a test says so; sleepers wake in the order of their instants."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.seconds + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let time pass and whoever wakes run."""
        self.seconds += seconds
        while self._sleepers and self._sleepers[0][0] <= self.seconds + 1e-9:
            _, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
        await asyncio.sleep(0)

    @property
    def sleeping(self) -> int:
        return sum(not woken.done() for _, _, woken in self._sleepers)


@dataclass
class Lab:
    """What a test holds of a running lab."""

    cloud: LabCloud
    clock: ManualClock
    url: str
    imds_url: str
    primary: EniDescription
    attached: list[tuple[str, EniId, str]] = field(default_factory=list)
    detached: list[tuple[str, EniId, str]] = field(default_factory=list)

    def client(self, **config: Any) -> Any:
        """Make a boto3 client that asks once and gives up after a while."""
        settings = {"retries": {"total_max_attempts": 1}, "read_timeout": DEADLINE_S} | config
        return SESSION.client("ec2", endpoint_url=self.url, config=Config(**settings))

    @property
    def codes(self) -> list[tuple[str, str]]:
        return [(call.api, call.code) for call in self.cloud.calls]


@contextlib.asynccontextmanager
async def running_lab(
    numbers: CloudNumbers | None = None,
    *,
    subnets: tuple[tuple[str, str, float], ...] = ((SUBNET, "10.0.0.0/24", 0),),
    node_type: NodeType | None = None,
    faults: Callable[[LabRequest], LabFault | None] | None = None,
) -> AsyncIterator[Lab]:
    """Serve a lab with one instance; subnets are (id, CIDR, addresses in use already)."""
    clock = ManualClock()
    vpc = Vpc(
        [
            Subnet(name, cidr, stream(1, name), zone=f"{REGION}a", already_used=used)
            for name, cidr, used in subnets
        ]
    )
    cloud = LabCloud(
        vpc,
        numbers or CloudNumbers.instant(),
        Draws(1, "lab"),
        facts=LabVpc((IPv4Network("10.0.0.0/16"),)),
        now=clock.now,
        sleep=clock.sleep,
        faults=faults,
    )
    primary = cloud.launch(INSTANCE, node_type or named("m5.large"), subnets[0][0], (GROUP,))
    async with (
        serving(cloud.ec2_app()) as url,
        serving(cloud.imds_app(INSTANCE)) as imds_url,
        contextlib.aclosing(_Closing(cloud)),
    ):
        lab = Lab(cloud, clock, url, imds_url, primary)
        cloud.on_attached = lambda who, eni, mac: lab.attached.append((who, eni.eni_id, mac))
        cloud.on_detached = lambda who, eni, mac: lab.detached.append((who, eni.eni_id, mac))
        yield lab
        vpc.check()


@dataclass
class _Closing:
    cloud: LabCloud

    async def aclose(self) -> None:
        await self.cloud.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or task does, up to a deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline, "waited in vain"
        await asyncio.sleep(0.001)


def in_a_lab(script: Callable[[Lab], Awaitable[None]], **settings: Any) -> None:
    """Run a test's body in a lab that is taken down again."""

    async def run() -> None:
        async with running_lab(**settings) as lab:
            await script(lab)

    asyncio.run(run())


class Sleeps(list[float]):
    """Remembers for how long it was asked to sleep, and does not."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
