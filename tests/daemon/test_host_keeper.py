"""The node's own rules: set at start, put back when somebody takes them away, set anew by CIDR."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from cni.allocator.actions import FailureReason
from cni.cloud.calls import CallError
from cni.cloud.identity import Identity
from cni.daemon.clock import LoopClock
from cni.daemon.host_keeper import LOOK_S, HostKeeper
from cni.network.desired import HostNetwork, NetworkOptions, host_network
from cni.network.netlink import NetworkError
from tests.daemon import virtual_loop

NODE = Identity(
    instance_id="i-1",
    instance_type="m5.large",
    region="eu-west-1",
    zone="eu-west-1a",
    mac="02:00:00:00:00:01",
    vpc_id="vpc-1",
    subnet_id="subnet-1",
    security_group_ids=("sg-1",),
    vpc_cidrs=(IPv4Network("10.0.0.0/16"),),
    private_ip=IPv4Address("10.0.0.5"),
)


@dataclass
class Host:
    """A kernel that says what it lacks, and a metadata service."""

    lacks: tuple[str, ...] = ()
    stubborn: bool = False
    fails: int = 0
    identity: Identity | Exception = NODE
    installed: list[HostNetwork] = field(default_factory=list)
    heard: list[tuple[str, bool]] = field(default_factory=list)
    snat_backend: str = "nftables"

    async def do(self, request: Callable[[Any], Any]) -> Any:
        return request(self)

    def install_host(self, host: HostNetwork) -> None:
        if self.fails:
            self.fails -= 1
            raise NetworkError("load the nft table", "no such program", "install nftables")
        self.installed.append(host)
        self.lacks = self.lacks if self.stubborn else ()

    def missing_of_host(self, _host: HostNetwork) -> tuple[str, ...]:
        return self.lacks

    def rules_set(self, backend: str, *, success: bool) -> None:
        self.heard.append((backend, success))

    async def who(self) -> Identity:
        if isinstance(self.identity, Exception):
            raise self.identity
        return self.identity


def host_of(identity: Identity) -> HostNetwork:
    """Return what a node's host network must be."""
    return host_network(identity.mac, identity.private_ip, identity.vpc_cidrs, NetworkOptions())


def keeping(host: Host, work: Callable[[], Awaitable[None]]) -> list[Any]:
    """Run work on virtual time beside a keeper that has set the host up; return its log."""

    async def script() -> None:
        log = structlog.wrap_logger(None, processors=[captured])
        keeper = HostKeeper(host_of, host.who, host, LoopClock(), host, log)  # type: ignore[arg-type]
        await keeper.install(NODE)
        task = asyncio.create_task(keeper.keep())
        await work()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    captured = LogCapture()
    virtual_loop.run(script())
    return captured.entries


def test_what_somebody_took_away_is_put_back() -> None:
    """Pods find their way out of the VPC again within half a minute, and the log says so."""
    host = Host()

    async def work() -> None:
        await asyncio.sleep(10 * LOOK_S)
        assert len(host.installed) == 1, "nothing is written without need"
        host.lacks = ("nft chain snat",)
        await asyncio.sleep(2 * LOOK_S)
        assert len(host.installed) == 2

    lines = keeping(host, work)
    assert [line["what"] for line in lines] == ["nft chain snat"]
    assert host.heard == [("nftables", True)] * 2


def test_what_does_not_stay_is_told_and_not_fought_about() -> None:
    """Two programs that write one rule in turns help nobody."""
    host = Host(stubborn=True)

    async def work() -> None:
        host.lacks = ("nft chain snat",)
        await asyncio.sleep(10 * LOOK_S)
        assert len(host.installed) == 2

    assert len(keeping(host, work)) > 2


def test_a_cidr_more_is_followed() -> None:
    """SNAT leaves traffic to every CIDR of the VPC alone, also to those that came later."""
    host = Host()

    async def work() -> None:
        more = (*NODE.vpc_cidrs, IPv4Network("100.64.0.0/16"))
        host.identity = replace(NODE, vpc_cidrs=more)
        await asyncio.sleep(3 * LOOK_S)
        assert host.installed == [host_of(NODE), host_of(host.identity)]

    keeping(host, work)


@pytest.mark.parametrize("broken", ["metadata", "kernel"])
def test_the_keeper_outlives_what_fails(broken: str) -> None:
    """Neither a silent metadata service nor a kernel that refuses ends it."""
    host = Host()

    async def work() -> None:
        host.lacks = ("nft chain snat",)
        if broken == "metadata":
            host.identity = CallError(FailureReason.OTHER, "MetadataUnavailable")
        else:
            host.fails = 1
        await asyncio.sleep(3 * LOOK_S)
        host.identity = NODE
        await asyncio.sleep(2 * LOOK_S)
        assert not host.lacks

    keeping(host, work)
