"""Real packets between a pod, its node, the VPC and the internet; the far side tells who sent.

The router's namespace has addresses in the VPC, in an excluded network and outside. It also sees
by which ENI a packet came: EC2 would drop one that comes by an ENI whose address it does not
have.
"""

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import NamedTuple

import pytest

from cni.network.desired import NetworkOptions, PodNetwork, pod_network
from cni.network.netlink import NetworkError
from cni.network.snat import FindProgram, find_program
from tests.network.conftest import MakeKernel, MakeNamespace
from tests.network.namespaces import (
    EXCLUDED,
    IN_VPC,
    NODE,
    OUTSIDE,
    POD_ON_PRIMARY,
    POD_ON_SECONDARY,
    Namespace,
    NodeKernel,
    need_programs,
    the_eni,
    the_host,
)

pytestmark = pytest.mark.root

PORT = 7000
IP_PKTINFO = 8
OPTIONS = NetworkOptions(excluded_cidrs=(IPv4Network("192.168.0.0/16"),))


def no_nft(name: str) -> str | None:
    """Find programs on a node that has no nft."""
    return None if name == "nft" else find_program(name)


def legacy_only(name: str) -> str | None:
    """Find programs on a node that has the old iptables alone."""
    return {
        "iptables": find_program("iptables-legacy"),
        "iptables-restore": find_program("iptables-legacy-restore"),
    }.get(name)


BACK_ENDS = pytest.mark.parametrize(
    "find", [find_program, no_nft, legacy_only], ids=["nft", "iptables", "iptables-legacy"]
)


class Seen(NamedTuple):
    """What the far side saw of a packet: who sent it, by which of the node's ENIs."""

    sender: str
    eni: str


MakeWorld = Callable[..., "World"]


class World:
    """A node with a pod on each ENI."""

    def __init__(self, node: Namespace, router: Namespace, kernel: NodeKernel) -> None:
        self.node, self.router, self.kernel = node, router, kernel
        self.pods: dict[int, Namespace] = {}
        links = router.ip_json("link")
        self._enis = {one["ifindex"]: one["ifname"].replace("rt", "eth") for one in links}

    def seen_from(self, pod: int, target: str, *, asked: str | None = None) -> Seen:
        """Send datagrams from a pod and have them answered; tell what the far side saw."""
        with (
            self.router.socket(socket.SOCK_DGRAM, target, PORT) as server,
            self.pods[pod].socket(socket.SOCK_DGRAM) as client,
        ):
            server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            seen = set()
            # Only the first packet of a connection is judged; all must go the same way.
            for text in (b"one", b"two", b"three"):
                client.sendto(text, (asked or target, PORT))
                data, notes, _, sender = server.recvmsg(100, 100)
                (index,) = struct.unpack_from("=i", notes[0][2])
                server.sendto(data, sender)
                assert client.recv(100) == text
                seen.add(Seen(sender[0], self._enis[index]))
            (only,) = seen
            return only

    def connects(self, pod: int, target: str, port: int, patience_s: float = 10.0) -> bool:
        """Tell whether a client outside gets an answer from a pod's server by TCP."""
        with (
            self.pods[pod].socket(socket.SOCK_STREAM, "0.0.0.0", 8080) as server,  # noqa: S104
            self.router.socket(socket.SOCK_STREAM, OUTSIDE) as client,
        ):
            server.listen()
            client.settimeout(patience_s)
            try:
                client.connect((target, port))
                accepted, _ = server.accept()
                with accepted:
                    client.sendall(b"hello")
                    accepted.sendall(accepted.recv(100))
                return client.recv(100) == b"hello"
            except TimeoutError:
                return False


def a_world(
    node: Namespace,
    router: Namespace,
    kernel: NodeKernel,
    new_namespace: MakeNamespace,
    options: NetworkOptions,
) -> World:
    """Install host, ENI and two pods."""
    world = World(node, router, kernel)
    kernel.install_host(the_host(options))
    kernel.install_eni(the_eni(options), 5.0)
    for index, address in enumerate((POD_ON_PRIMARY, POD_ON_SECONDARY)):
        world.pods[index] = new_namespace()
        kernel.install_pod(a_pod(index, address, options), world.pods[index].fd)
    return world


def a_pod(index: int, address: IPv4Address, options: NetworkOptions) -> PodNetwork:
    """Build the pod on an ENI."""
    return pod_network(
        pod_namespace="default",
        pod_name=f"pod-{index}",
        ifname="eth0",
        address=address,
        device_index=index,
        options=options,
    )


@pytest.fixture
def make_world(
    node: Namespace, router: Namespace, new_kernel: MakeKernel, new_namespace: MakeNamespace
) -> MakeWorld:
    """Make a world for some options, on a node that has some programs."""

    def make(options: NetworkOptions = OPTIONS, find: FindProgram = find_program) -> World:
        if find("nft") is None and find("iptables-restore") is None:
            pytest.skip("needs the program nft or iptables-restore")
        return a_world(node, router, new_kernel(options, find=find), new_namespace, options)

    return make


@BACK_ENDS
def test_pods_have_their_own_address_in_the_vpc(make_world: MakeWorld, find: FindProgram) -> None:
    """Each pod leaves by its own ENI, as itself; an excluded network is like the VPC."""
    world = make_world(find=find)

    for target in (IN_VPC, EXCLUDED):
        assert world.seen_from(0, target) == Seen(str(POD_ON_PRIMARY), "eth0")
        assert world.seen_from(1, target) == Seen(str(POD_ON_SECONDARY), "eth1")


@BACK_ENDS
@pytest.mark.parametrize("randomize", ["prng", "hashrandom", "none"])
def test_outside_the_vpc_pods_have_the_nodes_address(
    make_world: MakeWorld, find: FindProgram, randomize: str
) -> None:
    """Also a pod on a secondary ENI leaves by the primary one, whose address it is given."""
    world = make_world(replace(OPTIONS, randomize=randomize), find)

    for pod in (0, 1):
        assert world.seen_from(pod, OUTSIDE) == Seen(str(NODE), "eth0")


@BACK_ENDS
def test_with_external_snat_pods_keep_their_address(
    make_world: MakeWorld, find: FindProgram
) -> None:
    """AWS_VPC_K8S_CNI_EXTERNALSNAT: a NAT gateway does it, and nothing is marked."""
    world = make_world(replace(OPTIONS, external_snat=True), find)

    assert world.seen_from(0, OUTSIDE) == Seen(str(POD_ON_PRIMARY), "eth0")
    assert world.seen_from(1, OUTSIDE) == Seen(str(POD_ON_SECONDARY), "eth1")


@BACK_ENDS
def test_changed_settings_replace_the_rules(make_world: MakeWorld, find: FindProgram) -> None:
    """A VPC that gets another CIDR, and SNAT switched off and on again."""
    world = make_world(find=find)

    for options, sender in (
        (replace(OPTIONS, excluded_cidrs=(IPv4Network("198.51.100.0/24"),)), POD_ON_SECONDARY),
        (OPTIONS, NODE),
        (replace(OPTIONS, external_snat=True), POD_ON_SECONDARY),
        (replace(OPTIONS, external_snat=True, node_port=False), POD_ON_SECONDARY),
        (OPTIONS, NODE),
    ):
        world.kernel.install_host(the_host(options))

        assert world.seen_from(1, OUTSIDE).sender == str(sender)
        assert world.kernel.missing_of_host(the_host(options)) == ()


@BACK_ENDS
def test_a_node_talks_to_itself_as_itself(make_world: MakeWorld, find: FindProgram) -> None:
    """Loopback is outside the VPC's CIDRs, and not translated."""
    node = make_world(find=find).node
    with (
        node.socket(socket.SOCK_DGRAM, "127.0.0.1", PORT) as server,
        node.socket(socket.SOCK_DGRAM, "127.0.0.1") as client,
    ):
        client.sendto(b"hello", ("127.0.0.1", PORT))

        assert server.recvfrom(100) == (b"hello", client.getsockname())


def test_excluding_everything_is_external_snat(make_world: MakeWorld) -> None:
    """A list may hold 0.0.0.0/0."""
    world = make_world(replace(OPTIONS, excluded_cidrs=(IPv4Network("0.0.0.0/0"),)))

    assert world.seen_from(1, OUTSIDE) == Seen(str(POD_ON_SECONDARY), "eth1")


def test_pods_of_one_node_talk_to_each_other(make_world: MakeWorld) -> None:
    """Through the host, by the rules that lead to pods, whichever ENI they are on."""
    world = make_world()
    with (
        world.pods[1].socket(socket.SOCK_DGRAM, str(POD_ON_SECONDARY), PORT) as server,
        world.pods[0].socket(socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"hello", (str(POD_ON_SECONDARY), PORT))
        data, sender = server.recvfrom(100)
        server.sendto(data, sender)

        assert client.recv(100) == b"hello"
        assert sender[0] == str(POD_ON_PRIMARY)


def test_external_services_are_reached_by_the_primary_eni(make_world: MakeWorld) -> None:
    """AWS_EXTERNAL_SERVICE_CIDRS: the main table, even without SNAT or marks."""
    options = replace(
        OPTIONS, external_service_cidrs=(IPv4Network(f"{OUTSIDE}/32"),), external_snat=True
    )
    world = make_world(options)
    world.router.shell("for link in all rt0; do sysctl -qw net.ipv4.conf.$link.rp_filter=0; done")

    assert world.seen_from(1, OUTSIDE) == Seen(str(POD_ON_SECONDARY), "eth0")


KUBE_PROXY = """
table ip kube-proxy {{
    chain services {{
        type nat hook prerouting priority -100
        {rule}
    }}
}}
"""


def be_kube_proxy(node: Namespace, rule: str) -> None:
    """Translate destinations as kube-proxy does, in a table of its own."""
    node.shell(f"nft -f - <<'END'{KUBE_PROXY.format(rule=rule)}END")


@BACK_ENDS
@pytest.mark.parametrize("pod", [0, 1])
def test_a_node_port_answers_by_the_eni_it_was_asked_on(
    make_world: MakeWorld, find: FindProgram, pod: int
) -> None:
    """A client outside connects to the node, a pod on any ENI answers, with the node's address.

    The traffic policy is Local: kube-proxy does not masquerade.
    """
    need_programs("nft")
    world = make_world(find=find)
    target = (POD_ON_PRIMARY, POD_ON_SECONDARY)[pod]
    be_kube_proxy(world.node, f"ip daddr {NODE} tcp dport 30080 dnat to {target}:8080")

    assert world.connects(pod, str(NODE), 30080)


def test_without_node_port_support_the_answer_is_lost(make_world: MakeWorld) -> None:
    """This is what the mark is for: the answer leaves by the secondary ENI, and EC2 drops it."""
    need_programs("nft")
    world = make_world(replace(OPTIONS, node_port=False, external_snat=True))
    be_kube_proxy(world.node, f"ip daddr {NODE} tcp dport 30080 dnat to {POD_ON_SECONDARY}:8080")

    assert not world.connects(1, str(NODE), 30080, patience_s=1.0)


def test_clients_outside_that_ask_a_pod_itself_are_answered_by_it(make_world: MakeWorld) -> None:
    """From a peered network to the pod's address: neither marked nor translated on the way back."""
    world = make_world()

    assert world.connects(1, str(POD_ON_SECONDARY), 8080)


def test_a_service_outside_the_vpc_is_judged_by_its_real_address(make_world: MakeWorld) -> None:
    """Behind a service may be an endpoint outside; what kube-proxy translated counts."""
    need_programs("nft")
    world = make_world()
    be_kube_proxy(world.node, f"ip daddr 172.20.0.10 udp dport {PORT} dnat to {OUTSIDE}:{PORT}")

    assert world.seen_from(1, OUTSIDE, asked="172.20.0.10") == Seen(str(NODE), "eth0")


def test_the_rules_are_replaced_while_packets_flow(make_world: MakeWorld) -> None:
    """No new connection meets half of the rules, however often they are replaced."""
    world, host, done = make_world(), the_host(OPTIONS), threading.Event()
    seen: list[Seen] = []

    def ask() -> None:
        while not done.is_set():
            seen.append(world.seen_from(1, OUTSIDE))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(30):
            world.kernel.install_host(host)
    finally:
        done.set()
        asking.join()

    assert len(seen) > 10
    assert set(seen) == {Seen(str(NODE), "eth0")}


def test_the_tables_of_others_stay(make_world: MakeWorld, node: Namespace) -> None:
    """Replacing and removing ours touches no other table."""
    need_programs("nft")
    be_kube_proxy(node, "ip daddr 1.2.3.4 dnat to 5.6.7.8")
    before = node.shell("nft list table ip kube-proxy")
    world = make_world()

    world.kernel.install_host(the_host(replace(OPTIONS, external_snat=True, node_port=False)))

    assert node.shell("nft list tables") == "table ip kube-proxy\n"
    assert node.shell("nft list table ip kube-proxy") == before


@pytest.mark.parametrize("find", [no_nft, legacy_only], ids=["iptables", "iptables-legacy"])
def test_restoring_again_fills_the_same_chains(
    make_world: MakeWorld, node: Namespace, find: FindProgram
) -> None:
    """The fallback repeated adds no rule and no jump twice, and leaves other rules alone."""
    iptables = find("iptables") or pytest.skip("needs the program iptables")
    node.shell(f"{iptables} -t nat -A POSTROUTING -d 1.2.3.4 -j ACCEPT")
    world = make_world(find=find)
    before = [node.shell(f"{iptables} -t {table} -S") for table in ("nat", "mangle")]

    world.kernel.install_host(the_host(OPTIONS))

    assert [node.shell(f"{iptables} -t {table} -S") for table in ("nat", "mangle")] == before
    assert "-A POSTROUTING -d 1.2.3.4/32 -j ACCEPT" in before[0]
    assert world.kernel.missing_of_host(the_host(OPTIONS)) == ()
    node.shell(f"{iptables} -t nat -F AWS-SNAT-CHAIN-0")
    assert len(world.kernel.missing_of_host(the_host(OPTIONS))) == 3


def test_without_any_program_the_line_says_what_to_install(new_kernel: MakeKernel) -> None:
    """The image lacks both: one line, and what to do."""
    kernel = new_kernel(find=lambda _: None)

    with pytest.raises(NetworkError, match=r"neither nft nor iptables-restore .*install nftables"):
        kernel.install_host(the_host(OPTIONS))


def test_what_nft_says_is_told(new_kernel: MakeKernel, tmp_path: Path) -> None:
    """A kernel without nat support ends in one line with nft's own words."""
    program = tmp_path / "nft"
    program.write_text(
        "#!/bin/sh\necho 'Error: Could not process rule' >&2\necho more >&2\nexit 1\n"
    )
    program.chmod(0o755)
    kernel = new_kernel(find=lambda name: str(program) if name == "nft" else None)

    with pytest.raises(NetworkError, match="Could not process rule more") as refused:
        kernel.install_host(the_host(OPTIONS))

    assert "\n" not in str(refused.value)
