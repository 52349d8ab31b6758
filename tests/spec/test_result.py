"""A result has the form of the version it is asked in, and a previous one is read from any."""

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec.command import SUPPORTED
from cni.spec.errors import CniError, Code
from cni.spec.result import (
    Dns,
    Interface,
    IpConfig,
    Result,
    Route,
    parse_result,
    result_json,
    version_json,
)

POD = Result(
    interfaces=(
        Interface("eni0123456789a", "0a:58:00:00:00:01", mtu=9001),
        Interface("eth0", "0a:58:0a:00:00:07", mtu=9001, sandbox="/run/netns/cni-1"),
    ),
    ips=(IpConfig(IPv4Interface("10.0.0.7/32"), IPv4Address("169.254.1.1"), 1),),
    routes=(Route(IPv4Network("0.0.0.0/0"), IPv4Address("169.254.1.1"), mtu=9001, table=254),),
    dns=Dns(nameservers=("10.0.0.2",), domain="x.internal"),
)


def shown(version: str) -> dict[str, object]:
    """Return the pod's result as one version has it."""
    line = result_json(POD, version)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    result: dict[str, object] = json.loads(line)
    return result


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
def test_before_1_0_an_address_tells_its_ip_version(version: str) -> None:
    """0.3.1 and 0.4.0 want `version` in `ips`, and know no MTU."""
    assert shown(version) == {
        "cniVersion": version,
        "interfaces": [
            {"name": "eni0123456789a", "mac": "0a:58:00:00:00:01"},
            {"name": "eth0", "mac": "0a:58:0a:00:00:07", "sandbox": "/run/netns/cni-1"},
        ],
        "ips": [
            {"version": "4", "address": "10.0.0.7/32", "gateway": "169.254.1.1", "interface": 1}
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
        "dns": {"nameservers": ["10.0.0.2"], "domain": "x.internal"},
    }


def test_1_0_dropped_the_ip_version() -> None:
    """1.0.0 is 0.4.0 without it."""
    assert shown("1.0.0")["ips"] == [
        {"address": "10.0.0.7/32", "gateway": "169.254.1.1", "interface": 1}
    ]
    assert "mtu" not in str(shown("1.0.0"))


def test_1_1_tells_the_mtu_and_more_of_a_route() -> None:
    """1.1.0 adds `mtu` to interfaces, and mtu, advmss, priority, table and scope to routes."""
    assert shown("1.1.0")["interfaces"] == [
        {"name": "eni0123456789a", "mac": "0a:58:00:00:00:01", "mtu": 9001},
        {"name": "eth0", "mac": "0a:58:0a:00:00:07", "sandbox": "/run/netns/cni-1", "mtu": 9001},
    ]
    assert shown("1.1.0")["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 9001, "table": 254}
    ]


def test_the_first_interface_and_scope_0_are_told() -> None:
    """0 is a value, not a lack of one."""
    result = Result(
        (Interface("eth0", "0a:58:0a:00:00:07"),),
        (IpConfig(IPv4Interface("10.0.0.7/32"), interface=0),),
        (Route(IPv4Network("10.0.0.0/8"), scope=0),),
    )

    members = json.loads(result_json(result, "1.1.0"))

    assert members["ips"] == [{"address": "10.0.0.7/32", "interface": 0}]
    assert members["routes"] == [{"dst": "10.0.0.0/8", "scope": 0}]
    assert "dns" not in members


def test_an_interface_without_mac_is_refused() -> None:
    """What lacks one is no result to podman, so a daemon must not print one."""
    with pytest.raises(ValueError, match="'eth0' has no MAC"):
        result_json(Result((Interface("eth0", ""),), ()), "1.0.0")


def test_a_version_that_is_not_spoken_has_no_result() -> None:
    """Only what `parse` lets through can be asked for."""
    with pytest.raises(ValueError, match=r"0\.2\.0"):
        result_json(POD, "0.2.0")


def test_the_versions_are_told_oldest_first() -> None:
    """VERSION lists all, in the newest one's form."""
    assert json.loads(version_json()) == {
        "cniVersion": "1.1.0",
        "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_previous_result_is_read_from_every_version(version: str) -> None:
    """What a version does not say is empty, and the rest comes back."""
    back = parse_result(shown(version))

    assert [link.name for link in back.interfaces] == ["eni0123456789a", "eth0"]
    assert back.ips == POD.ips
    assert back.dns == POD.dns
    assert (back == POD) is (version == "1.1.0")


def test_what_other_plugins_wrote_is_read() -> None:
    """A chain may add IPv6, links without MAC and keys of its own; null is an empty list."""
    back = parse_result(
        {
            "interfaces": [{"name": "br0"}, {"name": "eth0", "mac": "0", "pciID": "x"}],
            "ips": [{"version": "6", "address": "fd00::7/64", "interface": 1}],
            "routes": None,
            "dns": {},
            "x": 1,
        }
    )

    assert back.interfaces[0] == Interface("br0", "")
    assert back.ips == (IpConfig(IPv6Interface("fd00::7/64"), interface=1),)
    assert back.routes == ()


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        ({"interfaces": {}}, "prevResult.interfaces"),
        ({"interfaces": ["eth0"]}, "prevResult.interfaces[0]"),
        ({"interfaces": [{}]}, "prevResult.interfaces[0].name"),
        ({"interfaces": [{"name": "a", "mac": 1}]}, "prevResult.interfaces[0].mac"),
        ({"interfaces": [{"name": "a", "mtu": -1}]}, "prevResult.interfaces[0].mtu"),
        ({"interfaces": [{"name": "a", "mtu": True}]}, "prevResult.interfaces[0].mtu"),
        ({"ips": [{"address": "10.0.0.300/32"}]}, "prevResult.ips[0].address"),
        ({"ips": [{}]}, "prevResult.ips[0].address"),
        ({"ips": [{"address": "10.0.0.1/32", "interface": 0}]}, "prevResult.ips[0].interface"),
        ({"ips": [{"address": "10.0.0.1/32", "gateway": "x"}]}, "prevResult.ips[0].gateway"),
        ({"routes": [{"dst": "x"}]}, "prevResult.routes[0].dst"),
        ({"routes": [{"dst": "10.0.0.0/8", "mtu": "1"}]}, "prevResult.routes[0].mtu"),
        ({"dns": []}, "prevResult.dns"),
        ({"dns": {"search": [1]}}, "prevResult.dns.search"),
    ],
)
def test_a_previous_result_that_is_amiss_is_error_7(raw: dict[str, object], where: str) -> None:
    """The message says which part, because people wrote the plug-in that made it."""
    with pytest.raises(CniError) as caught:
        parse_result(raw)

    assert caught.value.code is Code.INVALID_CONFIG
    assert caught.value.message.startswith(f"{where} ")


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=12)
KEYS = ["name", "mac", "mtu", "sandbox", "address", "gateway", "interface", "dst", "gw", "search"]
MEMBERS = st.dictionaries(
    st.sampled_from(KEYS),
    LEAVES | st.lists(LEAVES, max_size=2) | st.sampled_from(["10.0.0.1/32", "fd00::/8", "eth0"]),
)


@given(
    st.dictionaries(
        st.sampled_from(["interfaces", "ips", "routes", "dns"]),
        LEAVES | MEMBERS | st.lists(LEAVES | MEMBERS, max_size=3),
    )
)
def test_whatever_is_read_is_a_result_or_a_cni_error(raw: dict[str, object]) -> None:
    """Anything that is JSON ends in one or the other."""
    try:
        result = parse_result(raw)
    except CniError:
        return
    assert isinstance(result, Result)
