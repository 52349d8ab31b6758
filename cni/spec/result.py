"""What a command answers: the result of an ADD, per spec version, and the VERSION answer. PURE.

0.3.1 and 0.4.0 name the IP version of each address, 1.0.0 dropped that, 1.1.0 added the MTU of
interfaces and what can be said of a route (CNI spec, "Result" of each version).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from cni.spec.command import SUPPORTED
from cni.spec.errors import CniError, Code

_NAMES_IP_VERSION = ("0.3.1", "0.4.0")
_HAS_MTU = ("1.1.0",)
_ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")


@dataclass(frozen=True, slots=True)
class Interface:
    """One link: `sandbox` is the path of its network namespace, empty for the host's.

    `mac` is empty and `mtu` 0 where another plug-in's result says nothing.
    """

    name: str
    mac: str
    mtu: int = 0
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class IpConfig:
    """One address; `interface` is an index into the result's interfaces.

    Ours are IPv4; a later plug-in of the chain may have added IPv6 to a prevResult.
    """

    address: IPv4Interface | IPv6Interface
    gateway: IPv4Address | IPv6Address | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One route in the sandbox; what is None is not said, and all after `gw` came with 1.1.0."""

    dst: IPv4Network | IPv6Network
    gw: IPv4Address | IPv6Address | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    """Name servers and the like; all empty is left out."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What an ADD made."""

    interfaces: tuple[Interface, ...]
    ips: tuple[IpConfig, ...]
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


def result_json(result: Result, cni_version: str) -> bytes:
    r"""Return what an ADD prints; ValueError if an interface of ours would lack its MAC.

    >>> link = Interface("eth0", "0a:58:0a:00:00:07")
    >>> result_json(Result((link,), (IpConfig(IPv4Interface("10.0.0.7")),)), "0.4.0")[79:]
    b'"ips":[{"version":"4","address":"10.0.0.7/32"}]}\n'
    """
    if cni_version not in SUPPORTED:
        raise ValueError(f"there is no result for cniVersion {cni_version!r}")
    members: dict[str, object] = {"cniVersion": cni_version}
    members["interfaces"] = [_interface(link, cni_version) for link in result.interfaces]
    members["ips"] = [_ip(ip, cni_version) for ip in result.ips]
    if result.routes:
        members["routes"] = [_route(route, cni_version) for route in result.routes]
    if dns := _said(_dns_members(result.dns)):
        members["dns"] = dns
    return _line(members)


def version_json() -> bytes:
    r"""Return what VERSION prints; the plug-ins hold the same bytes as a constant.

    >>> version_json()
    b'{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}\n'
    """
    return _line({"cniVersion": SUPPORTED[-1], "supportedVersions": list(SUPPORTED)})


def parse_result(raw: Mapping[str, object]) -> Result:
    """Return a prevResult as values, of whatever version; CniError (code 7) if it is malformed."""
    interfaces = tuple(
        _parse_interface(entry, f"prevResult.interfaces[{n}]")
        for n, entry in enumerate(_list(raw, "interfaces"))
    )
    return Result(
        interfaces=interfaces,
        ips=tuple(
            _parse_ip(entry, f"prevResult.ips[{n}]", len(interfaces))
            for n, entry in enumerate(_list(raw, "ips"))
        ),
        routes=tuple(
            _parse_route(entry, f"prevResult.routes[{n}]")
            for n, entry in enumerate(_list(raw, "routes"))
        ),
        dns=_parse_dns(raw.get("dns")),
    )


# To JSON.


def _line(members: Mapping[str, object]) -> bytes:
    """Encode as one line of ASCII: a path in it may hold bytes that are no UTF-8."""
    return json.dumps(members, separators=(",", ":")).encode("ascii") + b"\n"


def _said(members: Mapping[str, object]) -> dict[str, object]:
    """Leave out what says nothing."""
    return {key: value for key, value in members.items() if value not in (None, "", [])}


def _interface(link: Interface, version: str) -> dict[str, object]:
    """Encode one interface."""
    if not link.mac:
        # podman 4.3 answers "invalid MAC address" to an interface without one.
        raise ValueError(f"the interface {link.name!r} has no MAC address")
    members = {"name": link.name, "mac": link.mac, "sandbox": link.sandbox}
    return _said({**members, "mtu": (link.mtu or None) if version in _HAS_MTU else None})


def _ip(ip: IpConfig, version: str) -> dict[str, object]:
    """Encode one address."""
    return _said(
        {
            "version": str(ip.address.version) if version in _NAMES_IP_VERSION else None,
            "address": str(ip.address),
            "gateway": str(ip.gateway) if ip.gateway is not None else None,
            "interface": ip.interface,
        }
    )


def _route(route: Route, version: str) -> dict[str, object]:
    """Encode one route."""
    gateway = str(route.gw) if route.gw is not None else None
    members: dict[str, object] = {"dst": str(route.dst), "gw": gateway}
    if version in _HAS_MTU:
        members |= {key: getattr(route, key) for key in _ROUTE_NUMBERS}
    return _said(members)


def _dns_members(dns: Dns) -> dict[str, object]:
    """Encode what is said of DNS."""
    return {
        "nameservers": list(dns.nameservers),
        "domain": dns.domain,
        "search": list(dns.search),
        "options": list(dns.options),
    }


# From JSON.


def _refuse(where: str, why: str) -> CniError:
    """Make the error for a malformed prevResult."""
    return CniError(Code.INVALID_CONFIG, f"{where} {why}")


def _object(entry: object, where: str) -> Mapping[str, object]:
    """Take an object for what it is."""
    if not isinstance(entry, dict):
        raise _refuse(where, "must be an object")
    return entry


def _list(raw: Mapping[str, object], key: str, inside: str = "prevResult") -> list[object]:
    """Return a list, empty where there is none (Go writes null for one never made)."""
    entries = raw.get(key)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise _refuse(f"{inside}.{key}", "must be a list")
    return entries


def _text(raw: Mapping[str, object], key: str, where: str) -> str:
    """Return a text, empty where there is none."""
    value = raw.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _refuse(f"{where}.{key}", "must be a string")
    return value


def _natural(raw: Mapping[str, object], key: str, where: str) -> int | None:
    """Return a whole number from 0 on, None where there is none."""
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _refuse(f"{where}.{key}", "must be a whole number from 0 on")
    return value


def _parse_interface(entry: object, where: str) -> Interface:
    """Take in one interface of any plug-in."""
    raw = _object(entry, where)
    if not (name := _text(raw, "name", where)):
        raise _refuse(f"{where}.name", "is missing")
    mac, sandbox = _text(raw, "mac", where), _text(raw, "sandbox", where)
    return Interface(name, mac, _natural(raw, "mtu", where) or 0, sandbox)


def _parse_ip(entry: object, where: str, interfaces: int) -> IpConfig:
    """Take in one address, IPv4 or IPv6."""
    raw = _object(entry, where)
    text, index = _text(raw, "address", where), _natural(raw, "interface", where)
    try:
        address = ip_interface(text)
    except ValueError:
        raise _refuse(f"{where}.address", "must be an address with its prefix length") from None
    if index is not None and index >= interfaces:
        raise _refuse(f"{where}.interface", "is no index into prevResult.interfaces")
    return IpConfig(address, _parse_gateway(raw, "gateway", where), index)


def _parse_gateway(
    raw: Mapping[str, object], key: str, where: str
) -> IPv4Address | IPv6Address | None:
    """Take in an address that may lack."""
    if not (text := _text(raw, key, where)):
        return None
    try:
        return ip_address(text)
    except ValueError:
        raise _refuse(f"{where}.{key}", "must be an IP address") from None


def _parse_route(entry: object, where: str) -> Route:
    """Take in one route."""
    raw = _object(entry, where)
    try:
        # Go keeps host bits as they are written, and so may a plug-in.
        dst = ip_network(_text(raw, "dst", where), strict=False)
    except ValueError:
        raise _refuse(f"{where}.dst", "must be a network in CIDR notation") from None
    numbers = {key: _natural(raw, key, where) for key in _ROUTE_NUMBERS}
    return Route(dst, _parse_gateway(raw, "gw", where), **numbers)


def _parse_dns(entry: object) -> Dns:
    """Take in what is said of DNS."""
    where = "prevResult.dns"
    if entry is None:
        return Dns()
    raw = _object(entry, where)
    texts = {
        key: tuple(_strings(_list(raw, key, where), f"{where}.{key}"))
        for key in ("nameservers", "search", "options")
    }
    return Dns(domain=_text(raw, "domain", where), **texts)


def _strings(entries: list[object], where: str) -> list[str]:
    """Take a list of strings for what it is."""
    strings = [entry for entry in entries if isinstance(entry, str)]
    if len(strings) != len(entries):
        raise _refuse(where, "must hold strings only")
    return strings
