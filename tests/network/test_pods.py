"""Pods on a real kernel: what is installed is read back by `ip`, which shares no code with us."""

import itertools
import os
import random
import socket
import threading
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from cni.network import pods
from cni.network.batches import Batch, Placement, host_side, make_pair, pod_side
from cni.network.desired import NetworkOptions, PodNetwork, pod_network
from cni.network.netlink import Kernel, NetworkError
from cni.network.rtnetlink import Replies, RouteSocket
from cni.network.templates import Templates
from tests.network.conftest import MakeKernel, MakeNamespace
from tests.network.namespaces import Namespace, NodeKernel, until

pytestmark = pytest.mark.root

ADDRESS = IPv4Address("10.0.1.77")


def a_pod(
    name: str = "web-0",
    *,
    address: IPv4Address = ADDRESS,
    device_index: int = 1,
    ifname: str = "eth0",
) -> PodNetwork:
    """Build a pod's network."""
    return pod_network(
        pod_namespace="default",
        pod_name=name,
        ifname=ifname,
        address=address,
        device_index=device_index,
        options=NetworkOptions(),
    )


def links_of(namespace: Namespace) -> dict[str, Any]:
    """List the links, by name, as `ip` sees them."""
    return {link["ifname"]: link for link in namespace.ip_json("addr show")}


def rules_of(namespace: Namespace) -> list[tuple[int, str, str, str]]:
    """List priority, source, destination and table of each rule, as `ip` sees them."""
    return [
        (one["priority"], one["src"], one.get("dst", "all"), one["table"])
        for one in namespace.ip_json("rule")
    ]


def remains_on(node: Namespace) -> list[str]:
    """List what is left of pods on a node."""
    found = [name for name in links_of(node) if name.startswith("eni")]
    found += [str(rule) for rule in rules_of(node) if rule[0] in {512, 1536}]
    return found + [one["dst"] for one in node.ip_json("route") if one["dev"].startswith("eni")]


@pytest.mark.parametrize("device_index", [0, 1, 2])
def test_ip_finds_on_the_host_what_was_desired(
    kernel: NodeKernel, node: Namespace, pod_side: Namespace, device_index: int
) -> None:
    """A link with name, MAC and MTU, a route over it, and rules with upstream's priorities."""
    pod = a_pod(device_index=device_index)

    made = kernel.install_pod(pod, pod_side.fd)

    link = links_of(node)[pod.host_link]
    assert (link["mtu"], link["address"], "UP" in link["flags"]) == (9001, made.host_mac, True)
    assert link["linkinfo"]["info_kind"] == "veth"
    (route,) = node.ip_json(f"route show dev {pod.host_link}")
    assert (route["dst"], route["scope"], route.get("gateway")) == (str(ADDRESS), "link", None)
    rules = [rule for rule in rules_of(node) if rule[0] in {512, 1536}]
    assert rules[0] == (512, "all", str(ADDRESS), "main")
    from_pod = [(1536, str(ADDRESS), "all", str(device_index + 1))] if device_index else []
    assert rules[1:] == from_pod


def test_ip_finds_in_the_pod_what_was_desired(kernel: NodeKernel, pod_side: Namespace) -> None:
    """Loopback up, one /32 address, a gateway that is a permanent neighbour, and no more."""
    made = kernel.install_pod(a_pod(), pod_side.fd)

    links = links_of(pod_side)
    assert "UP" in links["lo"]["flags"]
    assert (links["eth0"]["address"], links["eth0"]["mtu"]) == (made.pod_mac, 9001)
    (address,) = [one for one in links["eth0"]["addr_info"] if one["family"] == "inet"]
    assert (address["local"], address["prefixlen"], address["scope"]) == (
        str(ADDRESS),
        32,
        "global",
    )
    default, gateway = pod_side.ip_json("route")
    assert (default["dst"], default["gateway"], default["flags"]) == (
        "default",
        "169.254.1.1",
        ["onlink"],
    )
    assert (gateway["dst"], gateway["scope"]) == ("169.254.1.1", "link")
    (neighbour,) = [one for one in pod_side.ip_json("neigh") if "." in one["dst"]]
    assert (neighbour["dst"], neighbour["lladdr"], neighbour["state"]) == (
        "169.254.1.1",
        made.host_mac,
        ["PERMANENT"],
    )


def test_macs_belong_to_no_vendor_and_to_one_pod(
    kernel: NodeKernel, new_namespace: MakeNamespace
) -> None:
    """Unicast and locally administered; and the host's one ends in the pod's address."""
    made = [
        kernel.install_pod(a_pod(f"p{n}", address=ADDRESS + n), new_namespace().fd)
        for n in range(5)
    ]

    macs = [mac for links in made for mac in (links.host_mac, links.pod_mac)]
    assert len(set(macs)) == 10
    assert {int(mac[:2], 16) & 3 for mac in macs} == {2}
    assert [bytes.fromhex(links.host_mac.replace(":", ""))[2:] for links in made] == [
        (ADDRESS + n).packed for n in range(5)
    ]


def test_the_host_link_takes_no_ipv6_router_announcements(
    kernel: NodeKernel, node: Namespace, pod_side: Namespace
) -> None:
    """As upstream's `setupVeth` has it."""
    pod = a_pod()

    kernel.install_pod(pod, pod_side.fd)

    conf = f"net/ipv6/conf/{pod.host_link}"
    values = node.shell(f"cd /proc/sys/{conf} && cat accept_ra accept_redirects forwarding")
    assert values.split() == ["0", "1", "0"]


def test_where_ipv6_is_switched_off_nothing_is_missing(
    new_kernel: MakeKernel, pod_side: Namespace, tmp_path: Path
) -> None:
    """Kernels without IPv6 have no such files, and pods all the same."""
    kernel = new_kernel(sysctl_root=str(tmp_path))
    pod = a_pod()

    kernel.install_pod(pod, pod_side.fd)

    assert kernel.missing_of_pod(pod, pod_side.fd) == ()


def test_nothing_is_missing_after_installing(kernel: NodeKernel, pod_side: Namespace) -> None:
    """CHECK agrees with ADD."""
    pod = a_pod()

    kernel.install_pod(pod, pod_side.fd)

    assert kernel.missing_of_pod(pod, pod_side.fd) == ()
    assert kernel.missing_of_pod(pod, None) == ()
    assert kernel.host_links() == {pod.host_link}


HOST_LINK = a_pod().host_link
DAMAGES = [
    ("node", "rule del pref 512", "rule 512"),
    ("node", "rule del pref 1536", "rule 1536"),
    ("node", f"route del 10.0.1.77 dev {HOST_LINK}", "route 10.0.1.77/32"),
    ("node", f"link set {HOST_LINK} mtu 1400", "MTU of"),
    ("pod", "link set lo down", "link lo is not up"),
    ("pod", "link set eth0 down", "link eth0 is not up"),
    ("pod", "addr del 10.0.1.77/32 dev eth0", "address 10.0.1.77"),
    ("pod", "route del default", "route 0.0.0.0/0"),
    ("pod", "route del 169.254.1.1", "route 169.254.1.1/32"),
    ("pod", "neigh del 169.254.1.1 dev eth0", "neighbour 169.254.1.1"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage[1])
def test_what_somebody_removed_is_found_and_repaired(
    kernel: NodeKernel, node: Namespace, pod_side: Namespace, damage: tuple[str, str, str]
) -> None:
    """CHECK names what is missing, and another ADD completes it without making new links."""
    where, command, line = damage
    pod = a_pod()
    made = kernel.install_pod(pod, pod_side.fd)
    (node if where == "node" else pod_side).ip(command)

    missing = kernel.missing_of_pod(pod, pod_side.fd)
    again = kernel.install_pod(pod, pod_side.fd)

    assert any(line in one for one in missing), missing
    assert again == made
    assert kernel.missing_of_pod(pod, pod_side.fd) == ()


def test_what_chained_plugins_may_change_is_not_missed(
    kernel: NodeKernel, pod_side: Namespace
) -> None:
    """The tuning plug-in sets the MTU of the pod's end, and CHECK is asked after it ran."""
    pod = a_pod()
    kernel.install_pod(pod, pod_side.fd)

    pod_side.ip("link set eth0 mtu 1400")

    assert kernel.missing_of_pod(pod, pod_side.fd) == ()


def test_a_link_that_is_gone_is_missing(
    kernel: NodeKernel, node: Namespace, pod_side: Namespace
) -> None:
    """Without its link a pod has nothing, on either side, and another ADD makes all of it."""
    pod = a_pod()
    kernel.install_pod(pod, pod_side.fd)
    node.ip(f"link del {pod.host_link}")

    missing = kernel.missing_of_pod(pod, pod_side.fd)
    kernel.install_pod(pod, pod_side.fd)

    assert missing == (f"host link {pod.host_link}", "in the pod: link eth0")
    assert kernel.missing_of_pod(pod, pod_side.fd) == ()


def test_a_second_add_changes_nothing(
    kernel: NodeKernel, node: Namespace, pod_side: Namespace
) -> None:
    """The runtime may repeat an ADD: same links, same numbers, nothing twice."""
    pod = a_pod()
    first = kernel.install_pod(pod, pod_side.fd)
    before = links_of(node)[pod.host_link]["ifindex"]

    second = kernel.install_pod(pod, pod_side.fd)

    assert first == second
    assert links_of(node)[pod.host_link]["ifindex"] == before
    assert len(rules_of(node)) == 3 + 2
    assert len(pod_side.ip_json("route")) == 2


def test_an_old_link_of_the_same_pod_gives_way(
    kernel: NodeKernel, new_namespace: MakeNamespace
) -> None:
    """A pod that is made again has the name of the old one, and another sandbox and address."""
    old, new = new_namespace(), new_namespace()
    kernel.install_pod(a_pod(), old.fd)
    again = a_pod(address=ADDRESS + 1)

    kernel.install_pod(again, new.fd)

    assert kernel.missing_of_pod(again, new.fd) == ()
    assert "eth0" not in links_of(old)
    assert kernel.host_links() == {again.host_link}


def test_a_new_address_in_the_same_sandbox_makes_a_new_link(
    kernel: NodeKernel, pod_side: Namespace
) -> None:
    """What was left of an ADD that failed elsewhere does not keep its address."""
    kernel.install_pod(a_pod(), pod_side.fd)
    again = a_pod(address=ADDRESS + 1)

    kernel.install_pod(again, pod_side.fd)

    (address,) = [one for one in links_of(pod_side)["eth0"]["addr_info"] if one["family"] == "inet"]
    assert address["local"] == str(ADDRESS + 1)
    assert kernel.missing_of_pod(again, pod_side.fd) == ()


def test_a_late_del_leaves_the_next_sandboxs_link_alone(
    kernel: NodeKernel, new_namespace: MakeNamespace
) -> None:
    """A runtime sends a second DEL, perhaps after the ADD of a new pod of the same name."""
    old, new = a_pod(), a_pod(address=ADDRESS + 1)
    sandbox = new_namespace()
    kernel.install_pod(old, new_namespace().fd)
    kernel.install_pod(new, sandbox.fd)

    kernel.remove_pod(old)

    assert kernel.missing_of_pod(new, sandbox.fd) == ()


def test_a_link_made_by_upstream_is_removed(
    kernel: NodeKernel, node: Namespace, pod_side: Namespace
) -> None:
    """Its MAC does not tell whose it is, its route does."""
    pod = a_pod()
    kernel.install_pod(pod, pod_side.fd)
    node.ip(f"link set {pod.host_link} address 02:12:34:56:78:9a")

    kernel.remove_pod(pod)

    until(lambda: remains_on(node) == [], "the link is gone")


def test_removing_takes_rules_and_route_at_once_and_the_link_soon(
    kernel: NodeKernel, node: Namespace, pod_side: Namespace
) -> None:
    """When DEL returns nothing leads to the pod; its link goes without anybody waiting."""
    pod = a_pod()
    kernel.install_pod(pod, pod_side.fd)

    kernel.remove_pod(pod)

    assert [rule for rule in rules_of(node) if rule[0] in {512, 1536}] == []
    assert [one for one in node.ip_json("route") if one["dev"] == pod.host_link] == []
    assert kernel.host_links() == frozenset()
    until(lambda: remains_on(node) == [], "the link is gone")
    assert "eth0" not in links_of(pod_side)


def test_removing_what_is_not_there_is_success(kernel: NodeKernel, pod_side: Namespace) -> None:
    """DEL may be repeated, and may come without an ADD."""
    pod = a_pod()

    kernel.remove_pod(pod)
    kernel.install_pod(pod, pod_side.fd)
    kernel.remove_pod(pod)
    kernel.remove_pod(pod)

    assert kernel.missing_of_pod(pod, None)[0] == f"host link {pod.host_link}"


def test_closing_deletes_the_links_that_are_going(
    new_kernel: MakeKernel, node: Namespace, new_namespace: MakeNamespace
) -> None:
    """A daemon that ends does not leave them to the next one."""
    kernel = new_kernel()
    many = [a_pod(f"p{n}", address=ADDRESS + n) for n in range(5)]
    for pod in many:
        kernel.install_pod(pod, new_namespace().fd)
    for pod in many:
        kernel.remove_pod(pod)

    kernel.close()

    assert remains_on(node) == []
    assert "link-reaper" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("name", ["web-0", "web-1"])
def test_an_add_waits_for_the_link_that_is_going(
    kernel: NodeKernel, pod_side: Namespace, name: str
) -> None:
    """DEL, then at once ADD into the same namespace: by the same pod, or by another."""
    kernel.install_pod(a_pod(), pod_side.fd)
    next_pod = a_pod(name, address=ADDRESS + 1)

    kernel.remove_pod(a_pod())
    kernel.install_pod(next_pod, pod_side.fd)

    assert kernel.missing_of_pod(next_pod, pod_side.fd) == ()
    assert kernel.host_links() == {next_pod.host_link}


def test_a_strangers_interface_is_not_touched(
    kernel: NodeKernel, node: Namespace, pod_side: Namespace
) -> None:
    """Where the name is taken in the pod, ADD says so in one line and leaves nothing."""
    pod_side.ip("link add eth0 type veth peer name other")

    with pytest.raises(NetworkError, match="another link of that name") as refused:
        kernel.install_pod(a_pod(), pod_side.fd)

    assert "\n" not in str(refused.value)
    assert refused.value.errno == 17
    assert remains_on(node) == []
    assert "other" in links_of(pod_side)


def test_a_link_of_the_old_sandbox_is_not_taken_for_the_new_ones(
    kernel: NodeKernel, node: Namespace, new_namespace: MakeNamespace
) -> None:
    """Same pod, same address, another namespace, where a stranger has the interface's name."""
    kernel.install_pod(a_pod(), new_namespace().fd)
    sandbox = new_namespace()
    sandbox.ip("link add eth0 type veth peer name other")

    with pytest.raises(NetworkError, match="another link of that name"):
        kernel.install_pod(a_pod(), sandbox.fd)

    assert links_of(sandbox)["eth0"]["addr_info"] == []
    assert kernel.host_links() == frozenset()
    assert links_of(node).keys() == {"lo", "eth0", "eth1"}


class FailingTemplates(Templates):
    """Carry everything out but one batch."""

    def __init__(self, failing: Batch) -> None:
        super().__init__()
        self._failing = failing

    def run(self, kernel: RouteSocket, batch: Batch, placed: Placement, *args: int) -> Replies:
        """Fail in place of the chosen batch."""
        if batch is self._failing:
            raise NetworkError("do what was planned", "planted", "nothing", 5)
        return super().run(kernel, batch, placed, *args)


@pytest.mark.parametrize("failing", [make_pair, host_side, pod_side])
def test_an_add_that_fails_leaves_nothing(
    new_kernel: MakeKernel, node: Namespace, new_namespace: MakeNamespace, failing: Batch
) -> None:
    """Whichever step fails, links, route and rules that were made are gone when ADD returns."""
    kernel, sandbox = new_kernel(templates=FailingTemplates(failing)), new_namespace()

    with pytest.raises(NetworkError, match="planted"):
        kernel.install_pod(a_pod(), sandbox.fd)

    assert remains_on(node) == []
    assert list(links_of(sandbox)) == ["lo"]


def test_a_sysctl_that_cannot_be_written_fails_the_add(
    new_kernel: MakeKernel, node: Namespace, pod_side: Namespace, tmp_path: Path
) -> None:
    """The line says what to do about a read-only /proc/sys, and nothing stays."""
    folder = tmp_path / "net/ipv6/conf" / a_pod().host_link
    (folder / "accept_ra").mkdir(parents=True)
    kernel = new_kernel(sysctl_root=str(tmp_path))

    with pytest.raises(NetworkError, match=r"cannot set net/ipv6/conf/.*accept_ra"):
        kernel.install_pod(a_pod(), pod_side.fd)

    assert remains_on(node) == []


def test_what_is_no_namespace_is_refused_in_one_line(
    kernel: NodeKernel, node: Namespace, tmp_path: Path
) -> None:
    """A wrong CNI_NETNS ends in a sentence with the kernel's word."""
    (tmp_path / "file").touch()
    wrong = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(NetworkError, match=r"cannot make the link eni.*: Invalid argument"):
            kernel.install_pod(a_pod(), wrong)
    finally:
        os.close(wrong)
    assert remains_on(node) == []


@pytest.mark.parametrize("steps", [(make_pair,), (make_pair, host_side)])
@pytest.mark.parametrize("then", ["add", "del", "sweep"])
def test_a_daemon_that_died_in_the_middle_is_no_obstacle(
    new_kernel: MakeKernel,
    node: Namespace,
    pod_side: Namespace,
    steps: tuple[Batch, ...],
    then: str,
) -> None:
    """After any step the next ADD completes the work, the next DEL or sweep removes it."""
    pod, dead = a_pod(), new_kernel()
    placed = Placement(pod, pod_side.fd, b"\x02\x00" + ADDRESS.packed, b"\x02\0\0\0\0\x01")
    for step in steps:
        node.call(Templates().run, dead.kernel._socket, step, placed)
        index = links_of(node)[pod.host_link]["ifindex"]
        placed = Placement(pod, pod_side.fd, host_index=index)
    kernel = new_kernel()

    if then == "add":
        kernel.install_pod(pod, pod_side.fd)
        assert kernel.missing_of_pod(pod, pod_side.fd) == ()
        return
    if then == "del":
        kernel.remove_pod(pod)
    else:
        kernel.remove_strays([], [])
    until(lambda: remains_on(node) == [], "nothing is left")


def test_fifty_pods_at_once_by_four_threads(node: Namespace, new_namespace: MakeNamespace) -> None:
    """Workers share the kernel's locks and the templates, and nothing else."""
    many = [a_pod(f"p{n}", address=ADDRESS + n, device_index=n % 3) for n in range(50)]
    sandboxes = [new_namespace() for _ in many]
    work = list(zip(many, sandboxes, strict=True))
    templates = Templates()
    failures: list[BaseException] = []

    def worker(mine: list[tuple[PodNetwork, Namespace]]) -> None:
        kernel = Kernel(NetworkOptions(), templates=templates)
        try:
            for pod, sandbox in mine:
                kernel.install_pod(pod, sandbox.fd)
            for pod, sandbox in mine:
                assert kernel.missing_of_pod(pod, sandbox.fd) == ()
            for pod, _ in mine[::2]:
                kernel.remove_pod(pod)
        except BaseException as failure:  # noqa: BLE001, told by the test
            failures.append(failure)
        finally:
            kernel.close()

    node.in_threads([lambda mine=work[n::4]: worker(mine) for n in range(4)])

    assert failures == []
    kept = {pod.host_link for n in range(4) for pod, _ in work[n::4][1::2]}
    assert {name for name in links_of(node) if name.startswith("eni")} == kept
    assert len([rule for rule in rules_of(node) if rule[0] == 512]) == len(kept)


def test_ends_that_have_the_same_number_are_told_apart(
    kernel: NodeKernel, new_namespace: MakeNamespace
) -> None:
    """Old kernels do not name the other end where both have one number; ours must not care."""
    for n in range(40):
        pod, sandbox = a_pod(f"p{n}", address=ADDRESS + n), new_namespace()
        for extra in range(random.Random(n).randrange(6)):
            sandbox.ip(f"link add x{extra} type veth peer name y{extra}")

        kernel.install_pod(pod, sandbox.fd)

        assert kernel.missing_of_pod(pod, sandbox.fd) == ()


def test_the_first_packet_to_a_pod_arrives(
    kernel: NodeKernel, node: Namespace, new_namespace: MakeNamespace
) -> None:
    """When ADD returns the host link sends: the kernel brings it up a moment after its peer."""
    with node.socket(socket.SOCK_DGRAM) as client:
        for n in range(100):
            pod, sandbox = a_pod(f"p{n}", address=ADDRESS + n), new_namespace()
            with sandbox.socket(socket.SOCK_DGRAM, port=7000) as server:
                kernel.install_pod(pod, sandbox.fd)
                client.sendto(b"hello", (str(pod.address), 7000))

                assert server.recv(100) == b"hello"


class SlowHost:
    """Answers like a kernel whose worker takes its time."""

    def __init__(self, slow: int) -> None:
        self.slow = slow

    def run(self, _: object) -> list[bytes]:
        """Answer with a link that comes up after some looks."""
        self.slow -= 1
        return [a_link_message(up=self.slow <= 0)]


def a_link_message(*, up: bool) -> bytes:
    """Write a link's message that has only an operational state: 6 is up, 2 is down."""
    return bytes(32) + bytes((5, 0, 16, 0, 6 if up else 2, 0, 0, 0))


def test_an_old_kernel_is_given_time_to_bring_the_link_up() -> None:
    """Before Linux 6.8 asking does not hurry the worker, so it is asked again."""
    host = SlowHost(slow=3)

    pods._await_link(host, a_pod(), [a_link_message(up=False)])  # type: ignore[arg-type]

    assert host.slow == 0


def test_a_link_that_never_comes_up_fails_the_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is bounded, and its end is told."""
    monkeypatch.setattr(pods, "_LOOKS", 5)

    with pytest.raises(NetworkError, match="did not come up within"):
        pods._await_link(SlowHost(slow=99), a_pod(), [])  # type: ignore[arg-type]


def test_two_interfaces_of_one_pod_live_side_by_side(
    kernel: NodeKernel, pod_side: Namespace
) -> None:
    """CNI lets a container join a network twice, under two interface names."""
    one, two = a_pod(), a_pod(ifname="net1", address=ADDRESS + 1)

    kernel.install_pod(one, pod_side.fd)
    kernel.install_pod(two, pod_side.fd)

    assert kernel.host_links() == {one.host_link, two.host_link}
    assert {"eth0", "net1"} < links_of(pod_side).keys()


def test_nothing_leaks_over_many_pods(kernel: NodeKernel, pod_side: Namespace) -> None:
    """Descriptors stay as many as they were."""
    pod = a_pod()
    kernel.install_pod(pod, pod_side.fd)
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in itertools.repeat(None, 30):
        kernel.install_pod(pod, pod_side.fd)
        kernel.missing_of_pod(pod, pod_side.fd)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_thread_stays_at_home(kernel: NodeKernel, node: Namespace, pod_side: Namespace) -> None:
    """After a pod was installed, and after it failed, the thread is in the node's namespace."""

    def home() -> int:
        return Path("/proc/thread-self/ns/net").stat().st_ino

    before = node.call(home)

    kernel.install_pod(a_pod(), pod_side.fd)

    assert node.call(home) == before
    assert before not in {os.fstat(pod_side.fd).st_ino, Path("/proc/self/ns/net").stat().st_ino}


def test_the_pod_talks_to_its_node(
    kernel: NodeKernel, node: Namespace, pod_side: Namespace
) -> None:
    """Packets go both ways over what was installed."""
    kernel.install_pod(a_pod(device_index=0), pod_side.fd)
    server = node.socket(socket.SOCK_DGRAM, "10.0.0.5", 7000)
    client = pod_side.socket(socket.SOCK_DGRAM)
    with server, client:
        client.sendto(b"hello", ("10.0.0.5", 7000))
        data, sender = server.recvfrom(100)
        server.sendto(data + b" there", sender)

        assert client.recv(100) == b"hello there"
        assert sender[0] == str(ADDRESS)
