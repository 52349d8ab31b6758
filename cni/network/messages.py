"""What we say to rtnetlink, encoded and decoded by pyroute2: each message described once.

Only its message classes are used. Its `IPRoute` would bring an event loop and four descriptors
for every thread and namespace, and `IPRoute(netns=...)` forks the daemon.
"""

import errno
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface
from typing import Any

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    nlmsg,
)
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_NEWRULE,
)
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cni.network.desired import POD_GATEWAY, PodNetwork, Route, Rule
from cni.network.rtnetlink import Request

Message = Mapping[str, Any]
"""A decoded message: header fields by name, attributes by `get_attr`."""

GOING = 0x61777363
"""IFLA_GROUP of host links that are to be deleted: `awsc`, a number nobody else will choose."""

_INET = 2
_UP = 1
_PERMANENT = 0x80
_ONLINK = 4
_BOOT, _UNICAST = 3, 1
_UNIVERSE, _LINK = 0, 253
_NOPREFIXROUTE = 0x200
_SKIP_STATS = 8
_MAIN_HEADER_TABLES = 256

CREATE_ONCE = NLM_F_CREATE | NLM_F_EXCL
CREATE_OR_REPLACE = NLM_F_CREATE | NLM_F_REPLACE


def _encode(
    message: nlmsg,
    kind: int,
    flags: int,
    fields: Mapping[str, int],
    attributes: Sequence[tuple[str, Any]],
) -> bytes:
    message["header"] = {"type": kind, "flags": flags, "sequence_number": 0, "pid": 0}
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data)


def decode(data: bytes) -> Message:
    """Decode one message from the kernel."""
    (message,) = MarshalRtnl().parse(data)
    decoded: Message = message
    return decoded


def attribute(message: Message, name: str) -> Any:  # noqa: ANN401, pyroute2 knows no types
    """Return an attribute's value, None where the message has none of that name."""
    return message.get_attr(name)  # type: ignore[attr-defined]


# Links


def new_pair(pod: PodNetwork, netns_fd: int, host_mac: str, pod_mac: str) -> Request:
    """Make both ends of a pod's link, the host's one up, the other in the pod's namespace.

    The pod's end cannot be up from the start: the driver answers ENOTCONN before both exist.
    """
    peer = {
        "attrs": [
            ("IFLA_IFNAME", pod.ifname),
            ("IFLA_ADDRESS", pod_mac),
            ("IFLA_MTU", pod.mtu),
            ("IFLA_NET_NS_FD", netns_fd),
        ]
    }
    veth = {"attrs": [("VETH_INFO_PEER", peer)]}
    attributes = [
        ("IFLA_IFNAME", pod.host_link),
        ("IFLA_ADDRESS", host_mac),
        ("IFLA_MTU", pod.mtu),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", veth)]}),
    ]
    return Request(
        f"make the link {pod.host_link}",
        _encode(
            ifinfmsg(),
            RTM_NEWLINK,
            NLM_F_REQUEST | NLM_F_ACK | CREATE_ONCE,
            {"flags": _UP, "change": _UP},
            attributes,
        ),
    )


def link_named(name: str) -> Request:
    """Ask for one link by its name; ENODEV is accepted and answers with no message."""
    attributes = [("IFLA_IFNAME", name), ("IFLA_EXT_MASK", _SKIP_STATS)]
    return Request(
        f"look up the link {name}",
        _encode(ifinfmsg(), RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, {}, attributes),
        (errno.ENODEV,),
    )


def link_at(index: int) -> Request:
    """Ask for one link by its number; ENODEV is accepted and answers with no message."""
    attributes = [("IFLA_EXT_MASK", _SKIP_STATS)]
    return Request(
        f"look up link {index}",
        _encode(ifinfmsg(), RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, {"index": index}, attributes),
        (errno.ENODEV,),
    )


def all_links() -> Request:
    """Ask for all links."""
    attributes = [("IFLA_EXT_MASK", _SKIP_STATS)]
    return Request(
        "list the links",
        _encode(ifinfmsg(), RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, {}, attributes),
    )


def link_up(index: int, mtu: int | None = None) -> Request:
    """Set a link up, and its MTU where one is given."""
    return Request(
        f"set link {index} up",
        _encode(
            ifinfmsg(),
            RTM_NEWLINK,
            NLM_F_REQUEST | NLM_F_ACK,
            {"index": index, "flags": _UP, "change": _UP},
            [] if mtu is None else [("IFLA_MTU", mtu)],
        ),
    )


def link_going(index: int) -> Request:
    """Put a host link into the group that the reaper deletes; ENODEV: it is gone already."""
    return Request(
        f"mark link {index} for deletion",
        _encode(
            ifinfmsg(),
            RTM_NEWLINK,
            NLM_F_REQUEST | NLM_F_ACK,
            {"index": index},
            [("IFLA_GROUP", GOING)],
        ),
        (errno.ENODEV,),
    )


def delete_link(index: int) -> Request:
    """Delete one link, waiting about 30 ms for RCU; ENODEV: it is gone already."""
    return Request(
        f"delete link {index}",
        _encode(ifinfmsg(), RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, {"index": index}, []),
        (errno.ENODEV,),
    )


def delete_going_links() -> Request:
    """Delete the whole group at the price of one link; ENODEV: it is empty."""
    return Request(
        "delete the links marked for it",
        _encode(ifinfmsg(), RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, {}, [("IFLA_GROUP", GOING)]),
        (errno.ENODEV,),
    )


# Addresses and neighbours


def new_address(index: int, address: IPv4Interface) -> Request:
    """Give a link an address, whose subnet gets no route in the main table."""
    ip = str(address.ip)
    return Request(
        f"give link {index} the address {address}",
        _encode(
            ifaddrmsg(),
            RTM_NEWADDR,
            NLM_F_REQUEST | NLM_F_ACK | CREATE_OR_REPLACE,
            {"family": _INET, "prefixlen": address.network.prefixlen, "index": index},
            [("IFA_ADDRESS", ip), ("IFA_LOCAL", ip), ("IFA_FLAGS", _NOPREFIXROUTE)],
        ),
    )


def delete_address(index: int, address: IPv4Interface) -> Request:
    """Take an address from a link; EADDRNOTAVAIL: it has it no more."""
    return Request(
        f"take the address {address} from link {index}",
        _encode(
            ifaddrmsg(),
            RTM_DELADDR,
            NLM_F_REQUEST | NLM_F_ACK,
            {"family": _INET, "prefixlen": address.network.prefixlen, "index": index},
            [("IFA_LOCAL", str(address.ip))],
        ),
        (errno.EADDRNOTAVAIL, errno.ENODEV),
    )


def addresses_of(index: int) -> Request:
    """Ask for the IPv4 addresses of a link; an old kernel lists those of all."""
    fields = {"family": _INET, "index": index}
    return Request(
        f"list the addresses of link {index}",
        _encode(ifaddrmsg(), RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, fields, []),
        (errno.ENODEV,),
    )


def gateway_neighbour(index: int, mac: str) -> Request:
    """Tell a pod for good which MAC its gateway has: that of its host link."""
    return Request(
        f"add the neighbour {POD_GATEWAY} on link {index}",
        _encode(
            ndmsg(),
            RTM_NEWNEIGH,
            NLM_F_REQUEST | NLM_F_ACK | CREATE_OR_REPLACE,
            {"family": _INET, "ifindex": index, "state": _PERMANENT},
            [("NDA_DST", str(POD_GATEWAY)), ("NDA_LLADDR", mac)],
        ),
    )


def all_neighbours() -> Request:
    """Ask for the IPv4 neighbours of all links."""
    return Request(
        "list the neighbours",
        _encode(ndmsg(), RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, {"family": _INET}, []),
    )


# Routes and rules


def _route(route: Route, index: int | None) -> tuple[dict[str, int], list[tuple[str, Any]]]:
    fields = {
        "family": _INET,
        "dst_len": route.to.prefixlen,
        "table": route.table if route.table < _MAIN_HEADER_TABLES else 0,
        "proto": _BOOT,
        "scope": _LINK if route.gateway is None else _UNIVERSE,
        "type": _UNICAST,
    }
    attributes: list[tuple[str, Any]] = [("RTA_TABLE", route.table)]
    if route.to.prefixlen:
        attributes.append(("RTA_DST", str(route.to.network_address)))
    if route.gateway is not None:
        # The gateway of a pod is on no network the pod knows; an ENI's takes it as well.
        fields["flags"] = _ONLINK
        attributes.append(("RTA_GATEWAY", str(route.gateway)))
    if index is not None:
        attributes.append(("RTA_OIF", index))
    return fields, attributes


def new_route(route: Route, index: int) -> Request:
    """Install a route over the link with this number, in place of one to the same network."""
    flags = NLM_F_REQUEST | NLM_F_ACK | CREATE_OR_REPLACE
    return Request(f"add {route}", _encode(rtmsg(), RTM_NEWROUTE, flags, *_route(route, index)))


def delete_route(route: Route, index: int | None = None) -> Request:
    """Delete a route, over any link for None; ESRCH: there is none."""
    fields, attributes = _route(route, index)
    # No flags on a delete: 0x200 means `bulk` there, and the kernel refuses. A protocol of 0
    # matches any, so that routes made by upstream are found as well.
    return Request(
        f"delete {route}",
        _encode(
            rtmsg(), RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK, fields | {"proto": 0}, attributes
        ),
        (errno.ESRCH, errno.ENODEV),
    )


def routes_in(table: int) -> Request:
    """Ask for the IPv4 routes of a table; an old kernel lists those of all."""
    fields = {"family": _INET, "table": table if table < _MAIN_HEADER_TABLES else 0}
    return Request(
        f"list the routes of table {table}",
        _encode(rtmsg(), RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, fields, [("RTA_TABLE", table)]),
        (errno.ENOENT,),
    )


def _rule(rule: Rule) -> tuple[dict[str, int], list[tuple[str, Any]]]:
    fields = {
        "family": _INET,
        "dst_len": rule.to.prefixlen if rule.to else 0,
        "src_len": rule.source.prefixlen if rule.source else 0,
        "table": rule.table if rule.table < _MAIN_HEADER_TABLES else 0,
        "action": _UNICAST,
    }
    attributes: list[tuple[str, Any]] = [
        ("FRA_PRIORITY", rule.priority),
        ("FRA_TABLE", rule.table),
    ]
    if rule.to:
        attributes.append(("FRA_DST", str(rule.to.network_address)))
    if rule.source:
        attributes.append(("FRA_SRC", str(rule.source.network_address)))
    if rule.mark is not None:
        attributes += [("FRA_FWMARK", rule.mark), ("FRA_FWMASK", rule.mark)]
    return fields, attributes


def new_rule(rule: Rule) -> Request:
    """Install a rule; EEXIST: it is there already, a second one would only stay behind."""
    flags = NLM_F_REQUEST | NLM_F_ACK | CREATE_ONCE
    return Request(
        f"add {rule}", _encode(fibmsg(), RTM_NEWRULE, flags, *_rule(rule)), (errno.EEXIST,)
    )


def delete_rule(rule: Rule) -> Request:
    """Delete a rule; ENOENT: there is none."""
    return Request(
        f"delete {rule}",
        _encode(fibmsg(), RTM_DELRULE, NLM_F_REQUEST | NLM_F_ACK, *_rule(rule)),
        (errno.ENOENT,),
    )


def all_rules() -> Request:
    """Ask for all IPv4 rules."""
    return Request(
        "list the rules",
        _encode(fibmsg(), RTM_GETRULE, NLM_F_REQUEST | NLM_F_DUMP, {"family": _INET}, []),
    )
