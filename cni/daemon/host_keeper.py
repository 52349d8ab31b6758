"""The node's own rules, sysctls and SNAT: set at start, and looked after from then on.

A firewall that is reloaded, or somebody's `nft flush ruleset`, takes the pods' way out of the VPC
away, and nobody tells. What is missing is put back; what is missing again although it was put
back is somebody's wish, or a fault of ours, and is told instead.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from cni.cloud.calls import CallError
from cni.cloud.identity import Identity
from cni.daemon.clock import Clock
from cni.daemon.netlink_thread import NetlinkThread
from cni.network.desired import HostNetwork
from cni.network.netlink import NetworkError

LOOK_S = 30.0
"""How often VPC CIDRs (as upstream) and the kernel are looked at."""


class Watcher(Protocol):
    """Who hears that rules were set: metrics."""

    def rules_set(self, backend: str, *, success: bool) -> None:
        """Hear that the host's rules were set, by `nftables` or by `iptables`, or could not be."""
        ...


class HostKeeper:
    """Keeps one node's host network as it should be."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part it is wired to
        self,
        host_of: Callable[[Identity], HostNetwork],
        identity: Callable[[], Awaitable[Identity]],
        netlink: NetlinkThread,
        clock: Clock,
        watcher: Watcher,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """Touch nothing yet; `netlink` must not be the thread that ADDs wait for."""
        self._host_of = host_of
        self._identity = identity
        self._netlink = netlink
        self._clock = clock
        self._watcher = watcher
        self._log = log
        self._known: HostNetwork | None = None
        self._put_back: tuple[str, ...] = ()

    async def install(self, identity: Identity) -> None:
        """Set the node up; NetworkError or ValueError where that cannot be."""
        host = self._host_of(identity)
        backend = await self._netlink.do(lambda kernel: kernel.snat_backend)
        try:
            await self._netlink.do(lambda kernel: kernel.install_host(host))
        except NetworkError:
            self._watcher.rules_set(backend, success=False)
            raise
        self._watcher.rules_set(backend, success=True)
        self._known = host

    async def keep(self) -> None:
        """Look every LOOK_S seconds, for ever; what fails is told and tried again."""
        while True:
            await self._clock.sleep(LOOK_S)
            try:
                await self._look()
            except (CallError, NetworkError, ValueError) as error:
                self._log.warning("the host's network is not kept", error=str(error))

    async def _look(self) -> None:
        identity = await self._identity()
        host = self._host_of(identity)
        if host != self._known:
            await self.install(identity)
            self._log.info("VPC CIDRs changed", cidrs=[*map(str, identity.vpc_cidrs)])
            return
        missing = await self._netlink.do(lambda kernel: kernel.missing_of_host(host))
        again, self._put_back = missing == self._put_back, ()
        if not missing:
            return
        if again:
            self._put_back = missing
            self._log.warning("the host's network lacks what was put back", what="; ".join(missing))
            return
        self._log.warning("the host's network is put back", what="; ".join(missing))
        await self.install(identity)
        self._put_back = missing
