"""What the daemon asks of the kernel: pods, ENIs, the host, and what nobody needs any more.

`Kernel` blocks, so the daemon uses it in worker threads. What must exist is said by the values
of `desired`; how it is said to the kernel is in the modules that are named for the things.
"""

from collections.abc import Collection

from cni.network.desired import EniNetwork, HostNetwork, NetworkOptions, PodNetwork
from cni.network.enis import install_eni, missing_of_eni, remove_eni
from cni.network.errors import NetworkError
from cni.network.host import install_host, missing_of_host
from cni.network.netns import route_socket
from cni.network.pods import PodLinks, Tools, install_pod, missing_of_pod, remove_pod
from cni.network.reaper import Reaper
from cni.network.rtnetlink import RouteSocket
from cni.network.snat import FindProgram, find_program
from cni.network.strays import pod_links, remove_strays
from cni.network.templates import Templates

__all__ = ["Kernel", "NetworkError", "PodLinks"]


class Kernel:
    """The network namespace of the thread that makes it; only that thread may use it.

    Every method raises NetworkError, one line that names the step, the kernel's word and what
    to do. Installing and removing may be repeated: what is there, or gone, is success.
    `templates` may be shared by all instances, so that messages are encoded once only.
    """

    def __init__(
        self,
        options: NetworkOptions,
        *,
        sysctl_root: str = "/proc/sys",
        find: FindProgram = find_program,
        templates: Templates | None = None,
    ) -> None:
        self._prefix = options.link_prefix
        self._sysctl_root = sysctl_root
        self._find = find
        self._socket = RouteSocket(route_socket())
        self._tools = Tools(self._socket, templates or Templates(), sysctl_root)
        self._tools.templates.prepare(options.link_prefix, options.pod_mtu)
        self._reaper = Reaper()

    def install_pod(self, pod: PodNetwork, netns_fd: int) -> PodLinks:
        """Make or complete a pod's network; on failure nothing that was made stays."""
        return install_pod(self._tools, pod, netns_fd)

    def remove_pod(self, pod: PodNetwork) -> None:
        """Remove a pod's rules and route at once; its link goes soon, or with its namespace."""
        if remove_pod(self._tools, pod):
            self._reaper.wake()

    def missing_of_pod(self, pod: PodNetwork, netns_fd: int | None) -> tuple[str, ...]:
        """List what a pod lacks, on the host only where there is no descriptor of its namespace."""
        return missing_of_pod(self._tools, pod, netns_fd)

    def install_eni(self, eni: EniNetwork, timeout_s: float) -> None:
        """Make a secondary ENI usable, after waiting for its link to appear."""
        install_eni(self._socket, eni, timeout_s)

    def missing_of_eni(self, eni: EniNetwork) -> tuple[str, ...]:
        """List what a secondary ENI lacks."""
        return missing_of_eni(self._socket, eni)

    def remove_eni(self, eni: EniNetwork) -> None:
        """Remove the rules and routes of an ENI that leaves or has left."""
        remove_eni(self._socket, eni)

    def install_host(self, host: HostNetwork) -> None:
        """Set the node up, or anew when VPC CIDRs have changed."""
        install_host(self._socket, self._sysctl_root, self._find, host)

    def missing_of_host(self, host: HostNetwork) -> tuple[str, ...]:
        """List what the node lacks."""
        return missing_of_host(self._socket, self._sysctl_root, self._find, host)

    @property
    def snat_backend(self) -> str:
        """What keeps the host's SNAT rules: `nftables`, or `iptables` where nft is missing."""
        return "nftables" if self._find("nft") is not None else "iptables"

    def host_links(self) -> frozenset[str]:
        """Name the host links of pods, whoever they belong to, that are not about to go."""
        return frozenset(link.name for link in pod_links(self._socket, self._prefix))

    def remove_strays(
        self, pods: Collection[PodNetwork], enis: Collection[EniNetwork]
    ) -> tuple[str, ...]:
        """Remove rules, routes and links of ours that none of these needs; one line for each."""
        removed = remove_strays(self._socket, self._prefix, pods, enis)
        # Links that were marked before a crash are still marked.
        self._reaper.wake()
        return removed

    @property
    def reaping_failure(self) -> NetworkError | None:
        """Why links that are going could not be deleted the last time, None if they could."""
        return self._reaper.failure

    def close(self) -> None:
        """Delete the links that are going, and close; a few seconds at most."""
        self._reaper.close()
        self._socket.close()
