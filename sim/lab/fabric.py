"""The VPC's network as namespaces: who reaches whom, and from which address.

Each ENI is a veth pair: one end, with the ENI's MAC, in the namespace of its node; the other in
the VPC's router. The router does what EC2 does and no more. It answers ARP for every address
that some ENI holds, and for the gateway of each subnet. It sends a packet to the ENI that holds
the destination, never by what a node answers: routes and neighbours are set from the state of
EC2. And it drops what comes from an ENI that does not hold the source address (the
source/destination check), which is why a plug-in needs a route table for every ENI. A far
network, "internet", sees the addresses that nodes send from: there is no public address here.
Sources: VPC user guide, "Subnet CIDR blocks", "Route tables"; EC2 user guide, "Source/
destination checking"; MTU 9001: EC2 user guide, "Jumbo frames".
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from cni.allocator.model import Block, EniId
from sim.lab.errors import LabError
from sim.lab.namespace import Namespace, names_beginning
from sim.vpc import EniDescription

MTU = 9001
INTERNET = IPv4Network("198.51.100.0/24")
PEER = IPv4Network("192.0.2.0/24")
"""A network behind a peering or VPN, to be excluded from SNAT; both are RFC 5737's."""

INTERNET_HOST = INTERNET[10]
PEER_HOST = PEER[10]
IMDS_ADDRESS = IPv4Address("169.254.169.254")
EC2_ADDRESS = IPv4Address("169.254.169.250")
"""Where a node finds its metadata and the EC2 endpoint, both on its own `lo`."""

RESERVED = (INTERNET, PEER, IPv4Network("169.254.0.0/16"), IPv4Network("127.0.0.0/8"))
"""What no VPC of a lab may overlap."""

_ROUTER_SYSCTLS = {
    "ipv4/ip_forward": 1,
    # Strict reverse paths are the source check: a source is let in only from the link on which
    # its ENI's routes lie.
    "ipv4/conf/all/rp_filter": 1,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/proxy_arp": 1,
    "ipv6/conf/all/disable_ipv6": 1,
    "ipv6/conf/default/disable_ipv6": 1,
}

_NODE_SYSCTLS = {
    # What EKS's node images set before any daemon runs; strict reverse paths are Amazon
    # Linux's default, which upstream's init container loosens on the primary ENI.
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 1,
}


@dataclass(slots=True)
class _Link:
    """An attached ENI: its link in the router, and the blocks that are routed to it."""

    name: str
    primary_ip: IPv4Address
    blocks: set[Block] = field(default_factory=set)


def check_vpc(vpc_cidrs: Iterable[IPv4Network], subnets: Iterable[IPv4Network]) -> None:
    """Raise ValueError where a VPC overlaps what the lab itself uses, or a subnet is not in it."""
    vpc_cidrs = tuple(vpc_cidrs)
    for cidr in vpc_cidrs:
        for reserved in RESERVED:
            if cidr.overlaps(reserved):
                raise ValueError(f"VPC CIDR {cidr} overlaps {reserved}, which the lab uses")
    for subnet in subnets:
        if not any(subnet.subnet_of(cidr) for cidr in vpc_cidrs):
            within = ", ".join(map(str, vpc_cidrs))
            raise ValueError(f"subnet {subnet} is not within the VPC ({within})")


class Fabric:
    """The namespaces of one lab; every name begins with `prefix`.

    May be called from several threads. What one call has set up is in effect when it returns.
    """

    def __init__(
        self, prefix: str, vpc_cidrs: Iterable[IPv4Network], subnets: Iterable[IPv4Network]
    ) -> None:
        """Make nothing yet; ValueError as from `check_vpc`."""
        self.prefix = prefix
        self._vpc_cidrs = tuple(vpc_cidrs)
        self._subnets = tuple(subnets)
        check_vpc(self._vpc_cidrs, self._subnets)
        self.router = Namespace(f"{prefix}vpc")
        self.internet = Namespace(f"{prefix}internet")
        self.peer = Namespace(f"{prefix}peer")
        self._nodes: dict[str, Namespace] = {}
        self._links: dict[EniId, _Link] = {}
        self._lock = threading.Lock()

    # The VPC

    def build(self) -> None:
        """Make the router and the two networks behind it."""
        left = names_beginning(self.prefix)
        if left:
            raise LabError(f"namespaces of that name exist, such as {left[0]}: take the lab down")
        self.router.create()
        self.router.write_sysctls(_ROUTER_SYSCTLS)
        self.router.ip(
            *(f"address add {subnet[1]}/32 dev lo" for subnet in self._subnets),
            # An address that no ENI holds is nowhere: EC2 answers neither ARP nor ping for it.
            *(f"route add blackhole {cidr}" for cidr in self._vpc_cidrs),
        )
        self._join(self.internet, INTERNET, INTERNET_HOST, "internet")
        self._join(self.peer, PEER, PEER_HOST, "peer")
        self.router.ip(f"route add default via {INTERNET_HOST}")

    def _join(self, far: Namespace, network: IPv4Network, host: IPv4Address, link: str) -> None:
        """Put a network with one host behind the router."""
        far.create()
        self.router.ip(
            f"link add {link} mtu {MTU} type veth peer name eth0 netns {far.name} mtu {MTU}",
            f"address add {network[1]}/{network.prefixlen} dev {link}",
            f"link set {link} up",
        )
        far.ip(
            f"address add {host}/{network.prefixlen} dev eth0",
            "link set eth0 up",
            f"route add default via {network[1]}",
        )

    # Nodes

    def add_node(self, name: str) -> Namespace:
        """Make the namespace of a node that has no ENI yet, and the addresses of its services."""
        node = Namespace(f"{self.prefix}{name}")
        node.create()
        node.write_sysctls(_NODE_SYSCTLS)
        node.ip(
            *(
                f"address add {address}/32 dev lo scope host"
                for address in (IMDS_ADDRESS, EC2_ADDRESS)
            )
        )
        self._nodes[name] = node
        return node

    def boot(self, name: str, eni: EniDescription) -> None:
        """Do what a node's operating system does with its primary ENI: DHCP's address and route."""
        subnet = self._subnet_of(eni.primary_ip)
        self._nodes[name].ip(
            "link set eth0 up",
            f"address add {eni.primary_ip}/{subnet.prefixlen} broadcast + dev eth0",
            f"route add default via {subnet[1]} dev eth0 src {eni.primary_ip}",
        )

    # ENIs

    def attach(self, name: str, eni: EniDescription, mac: str) -> None:
        """Let an ENI appear in a node as a link that is down and has no address.

        It is called eth and its device index, and is to be found by its MAC, as on EC2.
        """
        assert eni.attachment is not None, eni.eni_id
        node = self._nodes[name]
        link = "eni" + mac.replace(":", "")
        inside = f"eth{eni.attachment.device_index}"
        with self._lock:
            if eni.eni_id in self._links:
                return
            self.router.ip(
                f"link add {link} mtu {MTU} type veth"
                f" peer name {inside} netns {node.name} address {mac} mtu {MTU}",
                f"link set {link} up",
                f"route add {eni.primary_ip}/32 dev {link} scope link",
                # EC2 knows where an ENI is; it does not ask the node by ARP.
                f"neighbour add {eni.primary_ip} lladdr {mac} dev {link} nud permanent",
            )
            # The kernel would wait up to 0.8 s before it answers for others.
            self.router.write_sysctls({f"ipv4/neigh/{link}/proxy_delay": 0})
            self._links[eni.eni_id] = _Link(link, eni.primary_ip)
        self.route_blocks(eni)

    def detach(self, eni_id: EniId) -> None:
        """Let an ENI's link vanish, with the routes to it; none there is fine."""
        with self._lock:
            link = self._links.pop(eni_id, None)
            if link is not None:
                self.router.ip(f"link delete {link.name}")

    def route_blocks(self, eni: EniDescription) -> None:
        """Send the addresses of an attached ENI's blocks to it, and no others."""
        with self._lock:
            link = self._links.get(eni.eni_id)
            if link is None:
                return
            wanted = set(eni.blocks)
            lines = [
                f"route delete {block} via {link.primary_ip} dev {link.name}"
                for block in sorted(link.blocks - wanted)
            ]
            lines += [
                f"route replace {block} via {link.primary_ip} dev {link.name} onlink"
                for block in sorted(wanted - link.blocks)
            ]
            if lines:
                self.router.ip(*lines)
                link.blocks = wanted

    def spoofed_packets(self) -> int:
        """Count the packets that the router has dropped because the ENI lacks their source."""

        def read() -> str:
            # /proc/net would show the namespace of the process, not of this thread.
            with open("/proc/thread-self/net/netstat", encoding="ascii") as netstat:  # noqa: PTH123
                return netstat.read()

        heads, values = self.router.inside(read).splitlines()[:2]
        return int(values.split()[heads.split().index("IPReversePathFilter")])

    def _subnet_of(self, address: IPv4Address) -> IPv4Network:
        """Return the subnet an address is in."""
        for subnet in self._subnets:
            if address in subnet:
                return subnet
        raise LabError(f"no subnet of the lab has the address {address}")

    # The end

    def remove(self) -> None:
        """Remove every namespace of the lab, those of pods among them; none left is fine."""
        remove_namespaces(self.prefix)
        self._nodes.clear()
        self._links.clear()


def remove_namespaces(prefix: str) -> None:
    """Remove all namespaces whose names begin so; raises the first LabError after trying all."""
    errors = []
    for name in names_beginning(prefix):
        try:
            Namespace(name).remove()
        except LabError as error:
            errors.append(error)
    if errors:
        raise errors[0]
