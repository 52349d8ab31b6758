"""ENIs on the node's side: their links set up, and what they leave behind cleared."""

from collections.abc import Awaitable, Callable

import structlog

from cni.allocator.model import AttachedEni, EniId
from cni.cloud.identity import MetadataEni
from cni.daemon.netlink_thread import NetlinkThread
from cni.network.desired import EniNetwork, NetworkOptions, eni_network
from cni.network.netlink import NetworkError

LINK_PATIENCE_S = 15.0
"""How long the kernel may take to show an ENI's link (upstream: 5 tries, 3 s apart)."""


class NodeEnis:
    """Sets the links of secondary ENIs up; the primary one is the operating system's."""

    def __init__(
        self,
        metadata: Callable[[], Awaitable[tuple[MetadataEni, ...]]],
        netlink: NetlinkThread,
        options: NetworkOptions,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """Ask `metadata` for the MAC addresses and subnets that EC2's answers leave out."""
        self._metadata = metadata
        self._netlink = netlink
        self._options = options
        self._log = log
        self._installed: dict[EniId, EniNetwork] = {}

    @property
    def installed(self) -> tuple[EniNetwork, ...]:
        """The secondary ENIs that are set up."""
        return tuple(self._installed.values())

    async def install(self, eni: AttachedEni) -> None:
        """Set an ENI's link up; raises NetworkError where metadata or kernel do not show it."""
        if eni.device_index == 0:
            return
        shown = {one.eni.eni_id: one for one in await self._metadata()}.get(eni.eni_id)
        if shown is None:
            raise NetworkError(
                f"set up {eni.eni_id}",
                "the instance metadata does not show it",
                "it is tried again when EC2 is asked next",
            )
        network = eni_network(eni, shown.mac, shown.subnet, self._options)
        await self._netlink.do(lambda kernel: kernel.install_eni(network, LINK_PATIENCE_S))
        self._installed[eni.eni_id] = network

    async def remove(self, eni_id: EniId) -> None:
        """Remove the rules and routes of an ENI that is gone."""
        network = self._installed.pop(eni_id, None)
        if network is None:
            return
        try:
            await self._netlink.do(lambda kernel: kernel.remove_eni(network))
        except NetworkError as error:
            # The next start removes what is left; nothing routes by it meanwhile.
            self._log.warning("an ENI left something behind", eni=eni_id, error=str(error))
