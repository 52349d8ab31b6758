"""ENIs and the host on a real kernel, read back by `ip` and `nft`."""

import threading
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from cni.network.desired import NetworkOptions, PodNetwork, Rule, pod_network
from cni.network.netlink import NetworkError
from tests.network.conftest import MakeKernel, MakeNamespace
from tests.network.namespaces import (
    NODE,
    PRIMARY_MAC,
    SECONDARY,
    SECONDARY_MAC,
    Namespace,
    NodeKernel,
    the_eni,
    the_host,
    until,
)

pytestmark = pytest.mark.root

OPTIONS = NetworkOptions()
ENI = the_eni(OPTIONS)


def a_pod(number: int, device_index: int = 1) -> PodNetwork:
    """Build one of many pods."""
    return pod_network(
        pod_namespace="default",
        pod_name=f"pod-{number}",
        ifname="eth0",
        address=IPv4Address("10.0.1.100") + number,
        device_index=device_index,
        options=OPTIONS,
    )


def addresses_on(node: Namespace, link: str) -> list[str]:
    """List a link's IPv4 addresses with their lengths."""
    (found,) = node.ip_json(f"-4 addr show dev {link}")
    return [f"{one['local']}/{one['prefixlen']}" for one in found["addr_info"]]


def routes_of(node: Namespace, table: str) -> dict[str, tuple[str, str | None]]:
    """List link and gateway of each route of a table, by destination."""
    return {
        one["dst"]: (one["dev"], one.get("gateway"))
        for one in node.ip_json(f"route show table {table}")
    }


def rules_of(node: Namespace) -> set[str]:
    """List the rules as text, without those that every node has."""
    lines = node.ip("rule").splitlines()
    return {" ".join(line.split()) for line in lines} - {
        "0: from all lookup local",
        "32766: from all lookup main",
        "32767: from all lookup default",
    }


def test_ip_finds_the_eni_as_desired(kernel: NodeKernel, node: Namespace) -> None:
    """MTU, address with the subnet's length, its own table, no subnet route in main, a rule."""
    kernel.install_eni(ENI, 5.0)

    (link,) = node.ip_json("link show dev eth1")
    assert (link["mtu"], "UP" in link["flags"]) == (9001, True)
    assert addresses_on(node, "eth1") == [f"{SECONDARY}/24"]
    assert routes_of(node, "2") == {"10.0.1.1": ("eth1", None), "default": ("eth1", "10.0.1.1")}
    assert routes_of(node, "main") == {
        "10.0.0.0/24": ("eth0", None),
        "default": ("eth0", "10.0.0.1"),
    }
    assert rules_of(node) == {f"32765: from {SECONDARY} lookup 2"}
    assert kernel.missing_of_eni(ENI) == ()


def test_stray_addresses_and_the_subnets_route_go(kernel: NodeKernel, node: Namespace) -> None:
    """What DHCP or the distribution's ENI scripts gave it would answer for pods' addresses."""
    for command in ("link set eth1 up", "addr add 10.0.1.50/24 dev eth1"):
        node.ip(command)
    node.ip(f"addr add {SECONDARY}/32 dev eth1")

    assert len(kernel.missing_of_eni(ENI)) > 3
    kernel.install_eni(ENI, 5.0)

    assert addresses_on(node, "eth1") == [f"{SECONDARY}/24"]
    assert "10.0.1.0/24" not in routes_of(node, "main")
    assert kernel.missing_of_eni(ENI) == ()


def test_the_subnets_route_goes_where_the_address_is_right(
    kernel: NodeKernel, node: Namespace
) -> None:
    """A distribution that configures ENIs by DHCP makes both; the main table loses the route."""
    node.ip("link set eth1 up")
    node.ip(f"addr add {SECONDARY}/24 dev eth1")
    assert "10.0.1.0/24" in routes_of(node, "main")

    kernel.install_eni(ENI, 5.0)

    assert "10.0.1.0/24" not in routes_of(node, "main")


def test_an_eni_is_installed_again_without_a_gap(kernel: NodeKernel, node: Namespace) -> None:
    """After a restart of the daemon nothing that is right is taken away, not even for a moment."""
    kernel.install_eni(ENI, 5.0)
    heard = node.listen()

    kernel.install_eni(ENI, 5.0)

    # In rtnetlink's numbers each thing has four: NEW, DEL, GET, SET.
    assert [kind for kind in heard() if kind % 4 == 1] == []


def test_the_wait_for_an_eni_ends_when_it_appears(kernel: NodeKernel, node: Namespace) -> None:
    """EC2 says `attached` before the kernel sees the device."""
    node.ip("link del eth1")
    appears = threading.Timer(
        0.2, lambda: node.ip(f"link add ens6 address {SECONDARY_MAC} type veth peer name rt1")
    )
    appears.start()

    kernel.install_eni(ENI, 10.0)

    appears.join()
    assert addresses_on(node, "ens6") == [f"{SECONDARY}/24"]


def test_only_the_mac_itself_finds_an_eni(kernel: NodeKernel, node: Namespace) -> None:
    """Another link may have the same six bytes in its name, its alias or elsewhere."""
    node.shell("ip link set lo alias bcdefg; ip link set eth1 address 62:63:64:65:66:67")

    kernel.install_eni(replace(ENI, mac="62:63:64:65:66:67"), 0.2)

    assert addresses_on(node, "eth1") == [f"{SECONDARY}/24"]


def test_the_wait_for_an_eni_is_bounded(kernel: NodeKernel, node: Namespace) -> None:
    """A link that never appears ends in a line that names its MAC."""
    node.ip("link del eth1")

    with pytest.raises(NetworkError, match=f"MAC {SECONDARY_MAC}: none appeared within 0.2 s"):
        kernel.install_eni(ENI, 0.2)


def test_removing_an_eni_takes_rules_and_table(
    kernel: NodeKernel, node: Namespace, new_namespace: MakeNamespace
) -> None:
    """The rules of its pods too, which upstream leaves behind when an ENI vanishes."""
    kernel.install_eni(ENI, 5.0)
    kernel.install_pod(a_pod(1), new_namespace().fd)

    kernel.remove_eni(ENI)

    assert rules_of(node) == {"512: from all to 10.0.1.101 lookup main"}
    assert routes_of(node, "2") == {}


def test_removing_an_eni_that_vanished_takes_its_rules(kernel: NodeKernel, node: Namespace) -> None:
    """Its routes went with the link, its rules did not; doing it twice is no error."""
    kernel.install_eni(ENI, 5.0)
    node.ip("link del eth1")

    kernel.remove_eni(ENI)
    kernel.remove_eni(ENI)

    assert rules_of(node) == set()
    assert f"link with MAC {SECONDARY_MAC}" in kernel.missing_of_eni(ENI)


def test_ip_finds_the_host_as_desired(new_kernel: MakeKernel, node: Namespace) -> None:
    """Rules, MTU and sysctls; and what is installed twice is there once."""
    options = NetworkOptions(external_service_cidrs=(IPv4Network("52.94.0.0/16"),))
    kernel, host = new_kernel(options), the_host(options)

    for _ in range(2):
        kernel.install_host(host)

    assert rules_of(node) == {
        "1024: from all fwmark 0x80/0x80 lookup main",
        "1535: from all to 52.94.0.0/16 lookup main",
    }
    assert node.ip_json("link show dev eth0")[0]["mtu"] == 9001
    values = node.shell("cd /proc/sys/net/ipv4; cat ip_forward conf/eth0/rp_filter tcp_early_demux")
    assert values.split() == ["1", "2", "1"]
    assert kernel.missing_of_host(host) == ()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("ip rule del pref 1024", "rule 1024"),
        ("ip link set eth0 mtu 1500", "MTU of eth0"),
        ("sysctl -qw net.ipv4.ip_forward=0", "net/ipv4/ip_forward"),
        ("nft delete table ip aws-cni", "nft chain source"),
        ("nft flush chain ip aws-cni source", "nft rule in source"),
        ("nft flush set ip aws-cni direct", "nft set direct"),
        ("nft add rule ip aws-cni source drop", "has to go"),
        ("ip rule add pref 1535 to 1.2.3.0/24 lookup main", "rule 1535: to 1.2.3.0/24"),
    ],
)
def test_what_somebody_did_to_the_host_is_found_and_repaired(
    kernel: NodeKernel, node: Namespace, command: str, line: str
) -> None:
    """What is missing or too much has a line, and installing again puts it right."""
    host = the_host(OPTIONS)
    kernel.install_host(host)
    node.shell(command)

    missing = kernel.missing_of_host(host)
    kernel.install_host(host)

    assert any(line in one for one in missing), missing
    assert kernel.missing_of_host(host) == ()


def test_rules_of_earlier_settings_go(new_kernel: MakeKernel, node: Namespace) -> None:
    """An external service that is no longer named, another mark: replaced, not added to."""
    before = NetworkOptions(external_service_cidrs=(IPv4Network("52.94.0.0/16"),))
    new_kernel(before).install_host(the_host(before))
    after = NetworkOptions(mark=0x100)

    new_kernel(after).install_host(the_host(after))

    assert rules_of(node) == {"1024: from all fwmark 0x100/0x100 lookup main"}


def test_a_node_without_the_primary_eni_is_told_what_is_wrong(
    kernel: NodeKernel, node: Namespace
) -> None:
    """Most likely the daemon is not in the host's namespace."""
    node.ip("link set eth0 address 02:00:00:00:00:99")

    with pytest.raises(NetworkError, match=f"{PRIMARY_MAC}.*hostNetwork"):
        kernel.install_host(the_host(OPTIONS))


def test_the_sweep_removes_what_nobody_needs_and_nothing_else(
    kernel: NodeKernel, node: Namespace, new_namespace: MakeNamespace
) -> None:
    """Of two pods and an ENI one pod stays; rules of others with our priorities stay too."""
    kernel.install_host(the_host(OPTIONS))
    kernel.install_eni(ENI, 5.0)
    keep, go, sandbox = a_pod(1), a_pod(2, device_index=3), new_namespace()
    kernel.install_pod(keep, sandbox.fd)
    kernel.install_pod(go, new_namespace().fd)
    others = [
        "pref 512 to 10.9.0.0/16 lookup main",
        "pref 512 from 10.9.0.1 lookup main",
        "pref 1536 from 10.9.0.0/16 lookup 7",
        "pref 32765 from 10.9.0.2 iif eth0 lookup 7",
        "pref 32765 from 10.9.0.3 lookup 1000",
        "pref 100 to 10.9.0.4 lookup main",
    ]
    node.shell("\n".join(f"ip rule add {rule}" for rule in others))
    node.shell("ip link add eni-mine type veth peer name eni-other; ip link set eni-mine up")
    node.ip("route add 10.9.9.9 dev eni-mine")
    before = rules_of(node)

    removed = kernel.remove_strays([keep], [ENI])

    assert set(removed) == {
        "rule 512: to 10.0.1.102/32 table 254",
        "rule 1536: from 10.0.1.102/32 table 4",
        f"route 10.0.1.102/32 scope link table 254 dev {go.host_link}",
        f"link {go.host_link}",
    }
    assert before - rules_of(node) == {
        "512: from all to 10.0.1.102 lookup main",
        "1536: from 10.0.1.102 lookup 4",
    }
    assert kernel.missing_of_pod(keep, sandbox.fd) == ()
    assert kernel.missing_of_eni(ENI) == ()
    assert kernel.host_links() == {keep.host_link}
    until(lambda: go.host_link not in node.ip("link"), "the link is gone")
    assert kernel.remove_strays([keep], [ENI]) == ()


def test_the_sweep_removes_an_eni_that_is_no_more(kernel: NodeKernel, node: Namespace) -> None:
    """Its rule proves that the table was ours."""
    kernel.install_eni(ENI, 5.0)
    node.ip("route add default via 10.0.0.1 dev eth0 table 9")

    removed = kernel.remove_strays([], [])

    assert set(removed) == {
        f"rule 32765: from {SECONDARY}/32 table 2",
        "route 10.0.1.1/32 scope link table 2",
        "route 0.0.0.0/0 via 10.0.1.1 table 2",
    }
    assert rules_of(node) == set()
    assert routes_of(node, "2") == {}
    assert routes_of(node, "9") != {}


def test_the_sweep_removes_second_copies(
    kernel: NodeKernel, node: Namespace, new_namespace: MakeNamespace
) -> None:
    """Upstream could add a rule twice; one is left."""
    pod, sandbox = a_pod(1), new_namespace()
    kernel.install_pod(pod, sandbox.fd)
    # Another protocol makes it another rule for the kernel, but not for us.
    node.ip("rule add pref 512 to 10.0.1.101 lookup main protocol 77")

    removed = kernel.remove_strays([pod], [])

    assert removed == (str(Rule(512, 254, to=pod.network)),)
    assert kernel.missing_of_pod(pod, sandbox.fd) == ()
    assert node.ip("rule").count("512:") == 1


def test_a_pods_address_that_moved_takes_its_route_along(
    kernel: NodeKernel, node: Namespace, new_namespace: MakeNamespace
) -> None:
    """A route of ours over a link that is needed, to an address that is not the pod's, goes."""
    pod = a_pod(1)
    kernel.install_pod(pod, new_namespace().fd)
    node.ip(f"route add 10.0.1.222 dev {pod.host_link}")

    removed = kernel.remove_strays([pod], [])

    assert removed == (f"route 10.0.1.222/32 scope link table 254 dev {pod.host_link}",)


def test_the_primary_address_is_left_alone(kernel: NodeKernel, node: Namespace) -> None:
    """The node's own address and routes are the distribution's."""
    kernel.install_host(the_host(OPTIONS))
    kernel.install_eni(ENI, 5.0)
    kernel.remove_eni(ENI)
    kernel.remove_strays([], [])

    assert addresses_on(node, "eth0") == [f"{NODE}/24"]
    assert routes_of(node, "main")["default"] == ("eth0", "10.0.0.1")
