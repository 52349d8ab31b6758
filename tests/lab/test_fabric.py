"""The VPC's network: who reaches whom, from which address, and what is dropped."""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from cni.allocator.model import EniId
from sim.lab.errors import LabError
from sim.lab.fabric import INTERNET_HOST, MTU, PEER_HOST, Fabric
from sim.lab.namespace import Namespace
from sim.lab.plan import prefix_of
from sim.vpc import Attachment, EniDescription

SUBNET = IPv4Network("10.0.1.0/24")
PORT = 7777
pytestmark = pytest.mark.root


def eni(host: int, *blocks: str, index: int = 0) -> EniDescription:
    """Return an attached ENI whose primary address ends in `host`."""
    return EniDescription(
        EniId(f"eni-{host}"),
        "subnet-0",
        SUBNET[host],
        tuple(IPv4Network(f"10.0.1.{block}") for block in blocks),
        Attachment(f"eni-attach-{host}", "i-1", index),
        0.0,
    )


def mac_of(one: EniDescription) -> str:
    """Return a MAC for an ENI."""
    return f"02:00:00:00:00:{int(one.primary_ip) & 255:02x}"


@pytest.fixture
def fabric(name: str) -> Iterator[Fabric]:
    """Return the network of a VPC without nodes."""
    made = Fabric(prefix_of(name), [IPv4Network("10.0.0.0/16")], [SUBNET])
    try:
        made.build()
        yield made
    finally:
        made.remove()


def boot(fabric: Fabric, node: str, primary: EniDescription) -> Namespace:
    """Start a node with its primary ENI."""
    namespace = fabric.add_node(node)
    fabric.attach(node, primary, mac_of(primary))
    fabric.boot(node, primary)
    return namespace


def seen_from(source: Namespace, address: str, there: Namespace, target: str) -> str:
    """Connect from an address to a target; return the address that the target sees, or "".

    Linux repeats a lost SYN after a second; a packet that is dropped once is dropped for good.
    """
    listener = there.listen("0.0.0.0", PORT)  # noqa: S104 - inside a namespace of the test

    def connect() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(0.7)
            client.bind((address, 0))
            try:
                client.connect((target, PORT))
            except TimeoutError:
                return ""
            with listener.accept()[0] as accepted:
                return str(accepted.getpeername()[0])

    with listener:
        return source.inside(connect)


def test_an_attached_eni_appears_as_a_bare_link_and_vanishes(fabric: Fabric) -> None:
    """The link has the ENI's MAC and MTU, is down and without address, and goes with the ENI."""
    node = fabric.add_node("node-1")
    second = eni(20, "21/32", index=1)
    fabric.attach("node-1", second, mac_of(second))

    shown = node.show("-oneline link show dev eth1")
    assert mac_of(second) in shown
    assert f"mtu {MTU}" in shown
    assert "state DOWN" in shown
    assert node.show("address show dev eth1").count("inet") == 0

    fabric.detach(second.eni_id)
    fabric.detach(second.eni_id)
    assert "eth1" not in node.show("link")
    assert "10.0.1.21" not in fabric.router.show("route")


def test_a_node_boots_with_its_primary_address(fabric: Fabric) -> None:
    """The primary address with the subnet's mask, and a gateway that answers ARP at once."""
    node = boot(fabric, "node-1", eni(10))
    assert "10.0.1.10/24" in node.show("address show dev eth0")
    assert "default via 10.0.1.1 dev eth0" in node.show("route")
    assert seen_from(node, "10.0.1.10", fabric.internet, str(INTERNET_HOST)) == "10.0.1.10"


def test_pods_of_two_nodes_reach_each_other(fabric: Fabric) -> None:
    """Addresses of secondary IPs and of prefixes are routed to the ENI that holds them."""
    one = boot(fabric, "node-1", eni(10, "11/32"))
    two = boot(fabric, "node-2", eni(20, "32/28"))
    one.ip("address add 10.0.1.11/32 dev lo")
    two.ip("address add 10.0.1.47/32 dev lo")
    assert seen_from(one, "10.0.1.11", two, "10.0.1.47") == "10.0.1.11"
    assert seen_from(two, "10.0.1.47", one, "10.0.1.11") == "10.0.1.47"
    assert fabric.spoofed_packets() == 0


def test_routes_follow_the_blocks(fabric: Fabric) -> None:
    """An address that moves to another ENI is reached there, and one that nobody has nowhere."""
    first, second = eni(10, "11/32"), eni(20)
    one = boot(fabric, "node-1", first)
    two = boot(fabric, "node-2", second)
    three = boot(fabric, "node-3", eni(30))
    for node in (one, two):
        node.ip("address add 10.0.1.11/32 dev lo")
    assert seen_from(three, "10.0.1.30", one, "10.0.1.11") == "10.0.1.30"

    fabric.route_blocks(eni(10))
    assert seen_from(three, "10.0.1.30", one, "10.0.1.11") == ""
    fabric.route_blocks(eni(20, "11/32"))
    assert seen_from(three, "10.0.1.30", two, "10.0.1.11") == "10.0.1.30"
    # A late word of the former owner takes nothing away from the new one.
    fabric.route_blocks(eni(10))
    assert seen_from(three, "10.0.1.30", two, "10.0.1.11") == "10.0.1.30"


def test_a_source_that_the_eni_does_not_hold_is_dropped(fabric: Fabric) -> None:
    """A pod of the second ENI must leave by the second ENI, in the VPC and to the internet."""
    second = eni(20, "21/32", index=1)
    node = boot(fabric, "node-1", eni(10, "11/32"))
    fabric.attach("node-1", second, mac_of(second))
    node.ip("address add 10.0.1.11/32 dev lo", "address add 10.0.1.21/32 dev lo")
    other = boot(fabric, "node-2", eni(30))
    assert seen_from(node, "10.0.1.11", other, "10.0.1.30") == "10.0.1.11"
    assert fabric.spoofed_packets() == 0

    assert seen_from(node, "10.0.1.21", other, "10.0.1.30") == ""
    assert fabric.spoofed_packets() == 1
    assert seen_from(node, "10.0.1.21", fabric.internet, str(INTERNET_HOST)) == ""

    # What upstream sets up for each ENI: a table of its own, and a rule for its addresses.
    node.ip(
        "link set eth1 up",
        "route add 10.0.1.1 dev eth1 scope link table 2",
        "route add default via 10.0.1.1 dev eth1 table 2",
        "rule add from 10.0.1.21 table 2",
    )
    dropped = fabric.spoofed_packets()
    assert seen_from(node, "10.0.1.21", other, "10.0.1.30") == "10.0.1.21"
    assert seen_from(node, "10.0.1.21", fabric.internet, str(INTERNET_HOST)) == "10.0.1.21"
    assert fabric.spoofed_packets() == dropped


def test_an_invented_source_is_dropped(fabric: Fabric) -> None:
    """Neither an address that no ENI holds nor one from outside of the VPC leaves a node."""
    node = boot(fabric, "node-1", eni(10))
    node.ip("address add 10.0.1.99/32 dev lo", "address add 203.0.113.5/32 dev lo")
    # The gateway's MAC must be known: it is not told to a false address either.
    assert seen_from(node, "10.0.1.10", fabric.peer, str(PEER_HOST)) == "10.0.1.10"
    assert fabric.spoofed_packets() == 0
    for count, false in enumerate(("10.0.1.99", "203.0.113.5"), 1):
        assert seen_from(node, false, fabric.peer, str(PEER_HOST)) == ""
        assert fabric.spoofed_packets() == count


def test_jumbo_frames_pass(fabric: Fabric) -> None:
    """A packet of 9001 bytes crosses the VPC in one piece."""
    one = boot(fabric, "node-1", eni(10))
    two = boot(fabric, "node-2", eni(20))

    def bind() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(2)
        made.bind(("", PORT))
        return made

    with two.inside(bind) as receiver, one.inside(bind) as sender:
        ip_mtu_discover, do = 10, 2
        sender.setsockopt(socket.IPPROTO_IP, ip_mtu_discover, do)
        sender.sendto(bytes(MTU - 28), ("10.0.1.20", PORT))
        assert len(receiver.recv(10_000)) == MTU - 28
        with pytest.raises(OSError, match="Message too long"):
            sender.sendto(bytes(MTU - 27), ("10.0.1.20", PORT))


def test_a_failed_step_says_which_one(fabric: Fabric) -> None:
    """An error names the namespace, the words for `ip` and what the kernel said."""
    with pytest.raises(LabError, match=r"vpc: ip link set nolink up: .*nolink") as raised:
        fabric.router.ip("link set lo up", "link set nolink up", "link set lo up")
    assert "\n" not in str(raised.value)


def test_a_second_lab_of_that_name_is_refused(fabric: Fabric) -> None:
    """Namespaces that exist are somebody's; nothing is made over them."""
    second = Fabric(fabric.prefix, [IPv4Network("10.0.0.0/16")], [SUBNET])
    with pytest.raises(LabError, match="take the lab down"):
        second.build()


@pytest.mark.parametrize(
    ("vpc", "subnet", "match"),
    [
        ("198.51.0.0/16", "198.51.1.0/24", "overlaps 198.51.100.0/24"),
        ("10.0.0.0/16", "10.1.0.0/24", "not within the VPC"),
    ],
)
def test_a_vpc_that_cannot_be_is_refused(vpc: str, subnet: str, match: str) -> None:
    """What the lab itself uses cannot be the VPC's, and a subnet lies within it."""
    with pytest.raises(ValueError, match=match):
        Fabric("wb-x-", [IPv4Network(vpc)], [IPv4Network(subnet)])


def test_removing_twice_is_fine(fabric: Fabric) -> None:
    """The second removal finds nothing and says nothing."""
    boot(fabric, "node-1", eni(10))
    fabric.remove()
    fabric.remove()
    assert not fabric.router.path.exists()
