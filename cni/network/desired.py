"""The links, addresses, routes, rules and SNAT rules that must exist, as data. PURE.

Three things are described: a pod's link, an ENI and the host. Installing them, finding what is
missing of them and repairing them all work from these values; nothing else in `network` knows a
priority, a table or a gateway. Numbers are those of upstream v1.23 (`pkg/networkutils`,
`cmd/routed-eni-cni-plugin/driver`), so that a node can change over between the two.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, collapse_addresses

from cni.allocator.model import AttachedEni, EniId

MAIN_TABLE = 254

TO_POD = 512
"""Priority of a rule to a pod's address: its host route is in the main table."""

MARKED = 1024
"""Priority of the rule for marked traffic, which leaves by the primary ENI."""

TO_EXTERNAL_SERVICE = 1535
"""Priority of rules to external services, just ahead of the pods' own."""

FROM_POD = 1536
"""Priority of a rule from a pod's address to the table of its ENI."""

FROM_ENI = 32765
"""Priority of a rule from an ENI's primary address, just ahead of the main table's."""

POD_GATEWAY = IPv4Address("169.254.1.1")
"""What a pod sends to; nobody has it, a permanent neighbour entry stands in for ARP."""

EVERYWHERE = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Rule:
    """One routing rule; None matches anything. `mark` is both the value and its mask."""

    priority: int
    table: int
    to: IPv4Network | None = None
    source: IPv4Network | None = None
    mark: int | None = None

    def __str__(self) -> str:
        """Write it as `ip rule` would.

        >>> str(Rule(TO_POD, MAIN_TABLE, to=IPv4Network("10.0.0.5/32")))
        'rule 512: to 10.0.0.5/32 table 254'
        """
        words = [f"rule {self.priority}:"]
        words += [f"from {self.source}"] if self.source else []
        words += [f"to {self.to}"] if self.to else []
        words += [f"fwmark {self.mark:#x}/{self.mark:#x}"] if self.mark is not None else []
        return " ".join([*words, f"table {self.table}"])


@dataclass(frozen=True, slots=True)
class Route:
    """One route over a link that the context names; without `gateway` its scope is the link."""

    to: IPv4Network
    table: int = MAIN_TABLE
    gateway: IPv4Address | None = None

    def __str__(self) -> str:
        """Write it as `ip route` would.

        >>> str(Route(EVERYWHERE, 3, IPv4Address("10.0.0.1")))
        'route 0.0.0.0/0 via 10.0.0.1 table 3'
        """
        via = f"via {self.gateway}" if self.gateway else "scope link"
        return f"route {self.to} {via} table {self.table}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One value below /proc/sys; an `optional` one may not exist (IPv6 can be switched off)."""

    path: str
    value: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What the environment says of the data path, typed; the defaults are those of `variables`."""

    external_service_cidrs: tuple[IPv4Network, ...] = ()
    node_port: bool = True
    eni_mtu: int = 9001
    pod_mtu: int = 9001
    mark: int = 0x80
    excluded_cidrs: tuple[IPv4Network, ...] = ()
    external_snat: bool = False
    randomize: str = "prng"
    """How SNAT picks source ports: prng, hashrandom or none."""

    link_prefix: str = "eni"
    tcp_early_demux: bool = True


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """A pod's link: its name on the host and in the pod, and the pod's address.

    `table` is the route table of the ENI that carries the address, the main one for the primary.
    """

    host_link: str
    ifname: str
    address: IPv4Address
    table: int
    mtu: int

    @property
    def network(self) -> IPv4Network:
        """The address as a network of one."""
        return IPv4Network(self.address)

    @property
    def host_route(self) -> Route:
        """How the host reaches the pod, over its host link."""
        return Route(self.network)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """To the pod by its host route; from it by its ENI, unless that is the primary one."""
        to_pod = Rule(TO_POD, MAIN_TABLE, to=self.network)
        if self.table == MAIN_TABLE:
            return (to_pod,)
        return (to_pod, Rule(FROM_POD, self.table, source=self.network))

    @property
    def pod_routes(self) -> tuple[Route, ...]:
        """What the pod itself knows: all goes to the gateway on its link."""
        gateway = IPv4Network(POD_GATEWAY)
        return (Route(gateway), Route(EVERYWHERE, gateway=POD_GATEWAY))

    @property
    def sysctls(self) -> tuple[Sysctl, ...]:
        """What upstream sets on the host link: no IPv6 router announcements are taken there.

        From driver.go: `setupVeth` (v1.23).
        """
        folder = f"net/ipv6/conf/{self.host_link}"
        return tuple(
            Sysctl(f"{folder}/{name}", value, optional=True)
            for name, value in (("accept_ra", "0"), ("accept_redirects", "1"), ("forwarding", "0"))
        )


@dataclass(frozen=True, slots=True)
class EniNetwork:
    """A secondary ENI: its link is found by `mac`, its routes live in a table of its own."""

    eni_id: EniId
    device_index: int
    mac: str
    primary_ip: IPv4Address
    subnet: IPv4Network
    table: int
    mtu: int

    @property
    def address(self) -> IPv4Interface:
        """The primary address with the length of its subnet."""
        return IPv4Interface((self.primary_ip, self.subnet.prefixlen))

    @property
    def gateway(self) -> IPv4Address:
        """The VPC's router: the second address of every subnet (VPC User Guide, subnet sizing)."""
        return self.subnet.network_address + 1

    @property
    def routes(self) -> tuple[Route, ...]:
        """The gateway on the link, and everything else by it."""
        return (
            Route(IPv4Network(self.gateway), self.table),
            Route(EVERYWHERE, self.table, self.gateway),
        )

    @property
    def rule(self) -> Rule:
        """What comes from the ENI's own address leaves by it."""
        return Rule(FROM_ENI, self.table, source=IPv4Network(self.primary_ip))


@dataclass(frozen=True, slots=True)
class SourceNat:
    """What the packet filter must do; `snat.py` says it in nft's words or in iptables'.

    `direct` are the networks that pods reach with their own address: those of the VPC.
    """

    primary_ip: IPv4Address
    direct: tuple[IPv4Network, ...]
    excluded: tuple[IPv4Network, ...]
    mark: int
    link_prefix: str
    randomize: str
    translate: bool
    """False where EXTERNALSNAT leaves it to a NAT gateway."""

    node_port: bool

    @property
    def untranslated(self) -> tuple[IPv4Network, ...]:
        """All networks that see pods' own addresses, without overlaps."""
        return tuple(collapse_addresses((*self.direct, *self.excluded)))


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """What the node itself needs, once: rules, sysctls and SNAT. `primary_mac` finds the link."""

    primary_mac: str
    mtu: int
    rules: tuple[Rule, ...]
    early_demux: bool
    snat: SourceNat

    def sysctls(self, primary_link: str) -> tuple[Sysctl, ...]:
        """List them for the name that the primary ENI's link has.

        Replies to a NodePort may leave where strict filtering would not expect them, hence the
        loose 2 (upstream cmd/aws-vpc-cni-init).
        """
        return (
            Sysctl("net/ipv4/ip_forward", "1"),
            Sysctl(f"net/ipv4/conf/{primary_link}/rp_filter", "2"),
            Sysctl("net/ipv4/tcp_early_demux", "1" if self.early_demux else "0"),
        )


def host_link_name(prefix: str, pod_namespace: str, pod_name: str, ifname: str = "eth0") -> str:
    """Name the host end of a pod's link as upstream does (`names.go`), in at most 15 letters.

    A pod's further interfaces have names of their own, else one would replace the other.

    >>> host_link_name("eni", "default", "web-0")
    'eni0d7763386da'
    >>> host_link_name("eni", "default", "web-0", "net1")
    'enide80847183d'
    """
    words = (pod_namespace, pod_name) if ifname == "eth0" else (pod_namespace, pod_name, ifname)
    name = ".".join(words).encode()
    return prefix + hashlib.sha1(name, usedforsecurity=False).hexdigest()[:11]


def is_host_link(prefix: str, name: str) -> bool:
    """Tell whether a link is named as `host_link_name` names them.

    >>> is_host_link("eni", host_link_name("eni", "a", "b")), is_host_link("eni", "eni-lab-1")
    (True, False)
    """
    return re.fullmatch(f"{re.escape(prefix)}[0-9a-f]{{11}}", name) is not None


def table_of(device_index: int) -> int:
    """Return the route table of an ENI (upstream `CalculateRouteTableId`, network card 0).

    >>> table_of(0), table_of(1), table_of(2)
    (254, 2, 3)
    """
    return device_index + 1 if device_index > 0 else MAIN_TABLE


def network_options(other: Mapping[str, str]) -> NetworkOptions:
    """Read the data path's variables from `Settings.other`, whose spelling is settled already."""
    eni_mtu = int(other["AWS_VPC_ENI_MTU"])
    return NetworkOptions(
        external_service_cidrs=_networks(other["AWS_EXTERNAL_SERVICE_CIDRS"]),
        node_port=other["AWS_VPC_CNI_NODE_PORT_SUPPORT"] == "true",
        eni_mtu=eni_mtu,
        pod_mtu=int(other.get("POD_MTU", eni_mtu)),
        mark=int(other["AWS_VPC_K8S_CNI_CONNMARK"], 0),
        excluded_cidrs=_networks(other["AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"]),
        external_snat=other["AWS_VPC_K8S_CNI_EXTERNALSNAT"] == "true",
        randomize=other["AWS_VPC_K8S_CNI_RANDOMIZESNAT"],
        link_prefix=other["AWS_VPC_K8S_CNI_VETHPREFIX"],
        tcp_early_demux=other["DISABLE_TCP_EARLY_DEMUX"] != "true",
    )


def _networks(text: str) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(item) for item in text.split(",") if item)


def pod_network(  # noqa: PLR0913, by name: a pod is these facts
    *,
    pod_namespace: str,
    pod_name: str,
    ifname: str,
    address: IPv4Address,
    device_index: int,
    options: NetworkOptions,
) -> PodNetwork:
    """Say what a pod needs that holds an address of the ENI at `device_index`."""
    host_link = host_link_name(options.link_prefix, pod_namespace, pod_name, ifname)
    return PodNetwork(host_link, ifname, address, table_of(device_index), options.pod_mtu)


def eni_network(
    eni: AttachedEni, mac: str, subnet: IPv4Network, options: NetworkOptions
) -> EniNetwork:
    """Say what a secondary ENI needs; the primary one is the host's (`host_network`)."""
    assert eni.device_index > 0, eni
    table = table_of(eni.device_index)
    return EniNetwork(
        eni.eni_id,
        eni.device_index,
        mac.lower(),
        eni.primary_ip,
        subnet,
        table,
        options.eni_mtu,
    )


def host_network(
    primary_mac: str,
    primary_ip: IPv4Address,
    vpc_cidrs: Iterable[IPv4Network],
    options: NetworkOptions,
) -> HostNetwork:
    """Say what the node needs; ValueError without any VPC CIDR, since SNAT would then hit all."""
    direct = tuple(collapse_addresses(vpc_cidrs))
    if not direct and not options.external_snat:
        raise ValueError("the VPC has no CIDR: the metadata service must list at least one")
    snat = SourceNat(
        primary_ip=primary_ip,
        direct=direct,
        excluded=tuple(collapse_addresses(options.excluded_cidrs)),
        mark=options.mark,
        link_prefix=options.link_prefix,
        randomize=options.randomize,
        translate=not options.external_snat,
        node_port=options.node_port,
    )
    rules = [
        Rule(TO_EXTERNAL_SERVICE, MAIN_TABLE, to=network)
        for network in collapse_addresses(options.external_service_cidrs)
    ]
    if snat.translate or snat.node_port:
        rules.append(Rule(MARKED, MAIN_TABLE, mark=options.mark))
    return HostNetwork(
        primary_mac.lower(), options.eni_mtu, tuple(rules), options.tcp_early_demux, snat
    )
