"""Routing rules, routes, addresses and neighbours as the kernel tells them.

pyroute2 takes about 0.1 ms to decode a message and a node has a thousand of them, so whoever
looks for something says which bytes it must mention, and only such messages are decoded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from cni.network import messages
from cni.network.desired import EVERYWHERE, Route, Rule
from cni.network.messages import Message, attribute, decode
from cni.network.rtnetlink import Request, RouteSocket

_NO_PREFIX_SUPPRESSED = 0xFFFFFFFF
_LOOKUP = 1
_PERMANENT = 0x80
_UNICAST = 1
_KNOWN = {
    "FRA_DST",
    "FRA_FWMARK",
    "FRA_FWMASK",
    "FRA_PRIORITY",
    "FRA_PROTOCOL",
    "FRA_SRC",
    "FRA_SUPPRESS_PREFIXLEN",
    "FRA_TABLE",
}


@dataclass(frozen=True, slots=True)
class Installed:
    """A route, and the number of the link that it goes over."""

    route: Route
    link: int


def rules(kernel: RouteSocket, mention: bytes = b"") -> tuple[Rule, ...]:
    """List the rules that `Rule` can express, in the kernel's order. Raises NetworkError."""
    found = map(_rule_of, _mentioning(kernel, messages.all_rules(), mention))
    return tuple(rule for rule in found if rule is not None)


def routes(kernel: RouteSocket, table: int, mention: bytes = b"") -> tuple[Installed, ...]:
    """List the unicast routes of a table that go over one link. Raises NetworkError."""
    found = map(_route_of, _mentioning(kernel, messages.routes_in(table), mention))
    return tuple(one for one in found if one is not None and one.route.table == table)


def addresses(kernel: RouteSocket, link: int) -> tuple[IPv4Interface, ...]:
    """List a link's addresses that are good beyond it. Raises NetworkError."""
    return tuple(
        IPv4Interface((attribute(message, "IFA_LOCAL"), message["prefixlen"]))
        for message in _mentioning(kernel, messages.addresses_of(link), b"")
        if message["index"] == link and message["scope"] == 0
    )


def permanent_neighbours(kernel: RouteSocket, link: int) -> dict[IPv4Address, str]:
    """List a link's neighbours that never expire, with their MACs. Raises NetworkError."""
    return {
        IPv4Address(attribute(message, "NDA_DST")): attribute(message, "NDA_LLADDR")
        for message in _mentioning(kernel, messages.all_neighbours(), b"")
        if message["ifindex"] == link and message["state"] & _PERMANENT
    }


def _mentioning(kernel: RouteSocket, request: Request, mention: bytes) -> Iterator[Message]:
    return (decode(data) for data in kernel.dump(request) if mention in data)


def _rule_of(message: Message) -> Rule | None:
    """Return None for a rule that says more than ours do, and so is not ours."""
    given = {name for name, _ in message["attrs"]}
    suppressed = attribute(message, "FRA_SUPPRESS_PREFIXLEN")
    mark, mask = attribute(message, "FRA_FWMARK"), attribute(message, "FRA_FWMASK")
    if (
        given - _KNOWN
        or message["action"] != _LOOKUP
        or message["flags"]
        or message["tos"]
        or suppressed not in {None, _NO_PREFIX_SUPPRESSED}
        or mark != mask
    ):
        return None
    return Rule(
        attribute(message, "FRA_PRIORITY") or 0,
        attribute(message, "FRA_TABLE"),
        _network(attribute(message, "FRA_DST"), message["dst_len"]),
        _network(attribute(message, "FRA_SRC"), message["src_len"]),
        mark,
    )


def _route_of(message: Message) -> Installed | None:
    link = attribute(message, "RTA_OIF")
    if link is None or message["type"] != _UNICAST:
        return None
    gateway = attribute(message, "RTA_GATEWAY")
    route = Route(
        _network(attribute(message, "RTA_DST"), message["dst_len"]) or EVERYWHERE,
        attribute(message, "RTA_TABLE"),
        None if gateway is None else IPv4Address(gateway),
    )
    return Installed(route, link)


def _network(address: str | None, length: int) -> IPv4Network | None:
    return None if address is None else IPv4Network((address, length))
