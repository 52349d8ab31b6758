"""A node's ledger and kernel as dictionaries, which fail when they are told to."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import structlog

from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import NATIVE
from cni.allocator.errors import Cause
from cni.allocator.journal import Start
from cni.allocator.model import (
    AttachedEni,
    BlockKind,
    EniId,
    Instant,
    NodeLimits,
    SandboxKey,
)
from cni.allocator.targets import WarmIp
from cni.daemon.caller import Caller
from cni.daemon.clock import LoopClock
from cni.daemon.ledger import Holding, LedgerError
from cni.daemon.sandboxes import Sandboxes, Terms
from cni.network.desired import NetworkOptions, PodNetwork
from cni.network.netlink import NetworkError, PodLinks
from cni.spec.command import Add, Check, Del, NetConf

ENI = EniId("eni-00000000000000001")
PRIMARY = IPv4Address("10.0.0.10")
NOWHERE = 0
"""A descriptor that is open in every process."""


@dataclass
class FakeLedger:
    """What the ledger on disk would say after a crash now."""

    held: dict[SandboxKey, Holding] = field(default_factory=dict)
    fails: int = 0

    async def assigned(self, holding: Holding) -> None:
        await self._write()
        self.held[holding.sandbox] = holding

    async def released(self, sandbox: SandboxKey, _address: IPv4Address, _now: float) -> None:
        await self._write()
        self.held.pop(sandbox, None)

    async def _write(self) -> None:
        await asyncio.sleep(0)
        if self.fails:
            self.fails -= 1
            raise LedgerError("cannot write the ledger: no space left on device")


@dataclass
class FakeKernel:
    """Which pods are installed, by address; the netlink thread and the kernel in one."""

    pods: dict[IPv4Address, PodNetwork] = field(default_factory=dict)
    links: dict[str, IPv4Address] = field(default_factory=dict)
    fails: int = 0

    async def do(self, request: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0)
        return request(self)

    def install_pod(self, pod: PodNetwork, _netns: int) -> PodLinks:
        self._maybe_fail("install")
        self.pods[pod.address] = pod
        self.links[pod.host_link] = pod.address
        return PodLinks("02:00:00:00:00:01", "02:00:00:00:00:02")

    def remove_pod(self, pod: PodNetwork) -> None:
        self._maybe_fail("remove")
        self.pods.pop(pod.address, None)
        if self.links.get(pod.host_link) == pod.address:
            del self.links[pod.host_link]

    def remove_strays(self, _pods: object, _enis: object) -> tuple[str, ...]:
        self._maybe_fail("remove strays")
        return ()

    def host_links(self) -> frozenset[str]:
        self._maybe_fail("list links")
        return frozenset(self.links)

    def missing_of_pod(self, pod: PodNetwork, _netns: int | None) -> tuple[str, ...]:
        return () if pod.address in self.pods else (f"route {pod.address}/32",)

    def _maybe_fail(self, step: str) -> None:
        if self.fails:
            self.fails -= 1
            raise NetworkError(step, "no such device", "try again", 19)


@dataclass
class Heard:
    """What metrics would have heard."""

    adds: int = 0
    refusals: list[Cause] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    dels: list[str] = field(default_factory=list)

    def add_request(self) -> None:
        self.adds += 1

    def del_request(self, reason: str) -> None:
        self.dels.append(reason)

    def refused(self, cause: Cause) -> None:
        self.refusals.append(cause)

    def added(self, seconds: float) -> None: ...

    def deleted(self, seconds: float) -> None: ...

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)


class Node:
    """A node whose pool has as many free addresses as asked for, and an EC2 that is silent."""

    def __init__(self, free: int, *, add_wait_s: float = 0.0, enis: int = 1) -> None:
        blocks = tuple(IPv4Network(f"10.0.0.{20 + number}/32") for number in range(free))
        self.allocator = Allocator(
            **Start(
                target=WarmIp(1, 0),
                limits=NodeLimits(enis, max(free, 1), 110),
                kind=BlockKind.SECONDARY_IP,
                behaviour=NATIVE,
                now=Instant(0.0),
                attached=(AttachedEni(ENI, 0, PRIMARY, blocks),),
            ).arguments()
        )
        self.allocator.next_action(Instant(0.0))
        self.ledger = FakeLedger()
        self.kernel = FakeKernel()
        self.heard = Heard()
        self.sandboxes = Sandboxes(
            self.allocator,
            self.ledger,  # type: ignore[arg-type]
            self.kernel,  # type: ignore[arg-type]
            LoopClock(),
            lambda: 1_700_000_000.0,
            Terms(NetworkOptions(), add_wait_s),
            lambda: None,
            self.heard,
            structlog.stdlib.get_logger(),
        )

    def consistent(self) -> None:
        """Check that allocator, ledger, kernel and sandboxes agree on who holds what."""
        self.allocator.check()
        held = {one.sandbox: one.address for one in self.allocator.assignments()}
        assert {key: one.address for key, one in self.ledger.held.items()} == held
        assert {key: one.address for key, one in self.sandboxes.holdings.items()} == held
        assert set(self.kernel.pods) == set(held.values())


CONF = NetConf("1.0.0", "aws-cni", "aws-cni", None, None, {})


def add(name: str, pod: str = "") -> Add:
    """Return the ADD of a container, by default of a pod of the same name."""
    args = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": pod or name}
    return Add(CONF, name, "eth0", "/proc/self/ns/net", args)


def delete(name: str) -> Del:
    """Return the DEL that containerd sends second: it knows the container's name and no more."""
    return Del(CONF, name, "eth0", "", {})


def check(name: str, address: str) -> Check:
    """Return a CHECK whose prevResult has an address."""
    previous = {"cniVersion": "1.0.0", "interfaces": [], "ips": [{"address": address}]}
    conf = NetConf("1.0.0", "aws-cni", "aws-cni", previous, None, {})
    return Check(conf, name, "eth0", "/proc/self/ns/net", {})


class Anyone(Caller):
    """A caller with a namespace for kernels that do not look into it."""

    def __init__(self) -> None:
        super().__init__(NOWHERE)
