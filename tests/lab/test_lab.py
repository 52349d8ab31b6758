"""A lab from Python: nodes, daemons, pods, and the end of all of them."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from cni.allocator.model import BlockKind
from cni.variables import VARIABLES, Reader
from sim.lab import machine
from sim.lab.errors import LabError, MachineError
from sim.lab.fabric import EC2_ADDRESS, IMDS_ADDRESS, INTERNET_HOST
from sim.lab.folder import remove_folder
from sim.lab.lab import Lab, install_plugin
from sim.lab.namespace import PATH, Namespace, names_beginning
from sim.lab.node import LabNode
from sim.lab.plan import LabPlan
from sim.lab.pods import CniRefusedError
from sim.vpc import EniDescription

pytestmark = pytest.mark.root


@pytest.fixture
def lab(plan: LabPlan) -> Iterator[Lab]:
    """Return a lab of one node that is up."""
    with Lab(plan) as made:
        yield made


def fetch(
    namespace: Namespace,
    host: str,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return what a web server says to somebody in a namespace."""

    def get() -> str:
        connection = http.client.HTTPConnection(host, timeout=5)
        try:
            connection.request(method, path, headers=dict(headers))
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    return namespace.inside(get)


def calls_of(node: LabNode) -> list[dict[str, Any]]:
    """Return the calls that the stub plug-in has noted."""
    text = (node.runtime.state_dir / "calls").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_node_has_its_metadata_and_the_internet(lab: Lab) -> None:
    """The services answer inside the node's namespace, and see the node's primary address."""
    node = lab.nodes[0]
    (primary,) = lab.call(lambda: lab.vpc.interfaces_of(node.instance_id, 0))
    imds = str(IMDS_ADDRESS)
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = fetch(node.namespace, imds, "/latest/api/token", "PUT", lifetime)
    known = {"X-aws-ec2-metadata-token": token}
    told = fetch(node.namespace, imds, "/latest/meta-data/instance-id", "GET", known)
    assert told == node.instance_id
    assert "InvalidAction" in fetch(node.namespace, str(EC2_ADDRESS), "/", "POST")
    assert fetch(node.namespace, str(INTERNET_HOST), "/").strip() == str(primary.primary_ip)


def test_a_pod_is_added_and_deleted_as_containerd_does(lab: Lab) -> None:
    """One ADD, then DEL with the namespace and prevResult, and DEL again with neither."""
    node = lab.nodes[0]
    pod = node.add_pod("web-1")
    assert str(pod.address) == "10.0.0.77"
    assert pod.run(["ip", "link", "show", "lo"]).stdout.count("UP") >= 1
    assert node.pods == (pod,)
    node.check_pod(pod)
    node.delete_pod(pod)

    assert node.pods == ()
    assert not pod.namespace.path.exists()
    told = calls_of(node)
    assert [call["CNI_COMMAND"] for call in told] == ["ADD", "CHECK", "DEL", "DEL"]
    assert {call["CNI_CONTAINERID"] for call in told} == {pod.container_id}
    assert [call["CNI_NETNS"] for call in told] == [str(pod.namespace.path)] * 3 + [""]
    assert ["prevResult" in call["stdin"] for call in told] == [False, True, True, False]
    assert told[0]["CNI_IFNAME"] == "eth0"
    assert "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;" in told[0]["CNI_ARGS"]
    assert told[0]["stdin"]["name"] == "aws-cni"
    assert told[0]["stdin"]["cniVersion"] == "1.0.0"


def test_a_refused_pod_leaves_nothing(lab: Lab) -> None:
    """The CNI error arrives whole, DEL follows it, and the name is free again."""
    node = lab.nodes[0]
    with pytest.raises(CniRefusedError, match=r"error 11: no address \(pool_empty\)") as raised:
        node.add_pod("refused")
    assert (raised.value.code, raised.value.details) == (11, "pool_empty")
    assert [call["CNI_COMMAND"] for call in calls_of(node)] == ["ADD", "DEL", "DEL"]
    assert node.pods == ()
    assert names_beginning(f"{lab.plan.prefix}pod-") == ()


def test_a_pod_that_cannot_be_deleted_stays_on_file(lab: Lab) -> None:
    """Where DEL fails as well, the first error is told and the pod can be deleted later."""
    node = lab.nodes[0]
    with pytest.raises(CniRefusedError, match="ADD failed"):
        node.add_pod("stuck")
    (stuck,) = node.pods
    assert dict(stuck.result) == {}
    with pytest.raises(CniRefusedError, match="DEL failed"):
        node.delete_pod("stuck")


@pytest.mark.parametrize("bad", ["", "Web", "a_b", "-a", "a" * 64, "../x"])
def test_a_bad_name_is_refused(lab: Lab, bad: str) -> None:
    """A pod's name becomes that of a namespace and of a file."""
    with pytest.raises(ValueError, match="a name is"):
        lab.nodes[0].add_pod(bad)


def test_a_name_is_taken_once(lab: Lab) -> None:
    """Two pods of one name would share a namespace."""
    lab.nodes[0].add_pod("web-1")
    with pytest.raises(ValueError, match="web-1 already"):
        lab.nodes[0].add_pod("web-1")
    with pytest.raises(LookupError, match="no pod 'web-2'; it has web-1"):
        lab.nodes[0].delete_pod("web-2")


def test_a_daemon_is_killed_and_started_again(lab: Lab) -> None:
    """A killed daemon is not ready although its files remain; the next one is another process."""
    node = lab.nodes[0]
    first = node.daemon_pid
    assert node.kill_daemon() == -signal.SIGKILL
    assert node.daemon_pid is None
    assert not node.is_ready
    assert lab.restart_ended_daemons() == ("node-1",)
    node.wait_ready()
    assert node.daemon_pid not in (None, first)
    with pytest.raises(LabError, match="runs already"):
        node.start_daemon()
    assert lab.restart_ended_daemons() == ()


def test_a_daemon_runs_in_the_network_of_its_node(lab: Lab) -> None:
    """The daemon and its node share a namespace, and nobody else does."""
    node = lab.nodes[0]
    own = Path(f"/proc/{node.daemon_pid}/ns/net").stat().st_ino
    assert own == node.namespace.path.stat().st_ino
    assert own != Path("/proc/self/ns/net").stat().st_ino


def test_a_daemon_reads_and_writes_below_the_labs_folder_only(lab: Lab) -> None:
    """Whatever path a daemon has by default is the lab's own: this machine may be a real node."""
    environment = lab.nodes[0].environment
    paths = [
        name
        for name, variable in VARIABLES.items()
        if variable.reader is Reader.DAEMON and (variable.default or "").startswith("/")
    ]
    assert len(paths) >= 5
    for name in paths:
        value = environment[name]
        assert value in {"stdout", "stderr"} or Path(value).is_relative_to(lab.plan.directory), name


def test_a_daemon_that_ends_is_quoted(plan: LabPlan) -> None:
    """Whoever starts the lab sees why the daemon did not come up."""
    plan = replace(plan, daemon=(*plan.daemon, "dies"))
    with pytest.raises(LabError, match=r"daemon of node-1 ended with 1(.|\n)*no allocator today"):
        Lab(plan).__enter__()
    assert not plan.directory.exists()


def test_a_daemon_that_is_never_ready_ends_the_lab(plan: LabPlan) -> None:
    """The wait is bounded, and what the daemon said is shown."""
    plan = replace(plan, daemon=(*plan.daemon, "hangs"), ready_timeout_s=0.3)
    with pytest.raises(LabError, match=r"not ready after 0.3 s(.|\n)*stub daemon of node-1"):
        Lab(plan).__enter__()
    assert names_beginning(plan.prefix) == ()


def test_an_exception_in_the_block_ends_the_lab(plan: LabPlan) -> None:
    """Processes, namespaces and files are gone, and the exception arrives."""

    def fail() -> None:
        with Lab(plan) as lab:
            lab.nodes[0].add_pod("web-1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names_beginning(plan.prefix) == ()
    assert not plan.directory.exists()


def test_files_can_be_kept(plan: LabPlan) -> None:
    """A test that failed can be understood from the daemon's log."""
    with Lab(plan, keep_files=True):
        pass
    assert "stub daemon" in (plan.directory / "node-1" / "daemon.log").read_text()


def test_an_eni_appears_and_vanishes_with_its_attachment(lab: Lab) -> None:
    """A link comes with the blocks the ENI has by then, even those EC2 has added meanwhile."""
    node, vpc = lab.nodes[0], lab.vpc

    def attach() -> tuple[EniDescription, str]:
        made = vpc.create_network_interface("subnet-0", BlockKind.SECONDARY_IP, 1, "token", 0)
        vpc.attach_network_interface(made.eni_id, node.instance_id, 1, 0)
        (block,) = vpc.assign_private_ip_addresses(made.eni_id, BlockKind.SECONDARY_IP, 1, 0)
        (made,) = vpc.describe_network_interfaces((made.eni_id,), 0)
        stale = replace(made, blocks=())
        lab.cloud.on_attached(node.instance_id, stale, "02:00:00:00:00:99")
        return made, str(block.network_address)

    eni, address = lab.call(attach)
    assert "02:00:00:00:00:99" in node.run(["ip", "link", "show", "eth1"]).stdout
    routes = lab.fabric.router.show("route")
    assert f"{address} via {eni.primary_ip}" in routes
    lab.call(lambda: lab.cloud.on_detached(node.instance_id, eni, "02:00:00:00:00:99"))
    assert "eth1" not in node.run(["ip", "link"]).stdout


BOTO3 = """
import boto3, sys
ec2 = boto3.client("ec2", region_name="us-west-2", endpoint_url="http://169.254.169.250")
instance, step = sys.argv[1:]
if step == "attach":
    made = ec2.create_network_interface(SubnetId="subnet-0", SecondaryPrivateIpAddressCount=2)
    eni = made["NetworkInterface"]["NetworkInterfaceId"]
    ec2.attach_network_interface(NetworkInterfaceId=eni, InstanceId=instance, DeviceIndex=1)
    print(made["NetworkInterface"]["MacAddress"])
else:
    found = ec2.describe_network_interfaces(
        Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])
    (second,) = (one["Attachment"] for one in found["NetworkInterfaces"]
                 if one["Attachment"]["DeviceIndex"] == 1)
    ec2.detach_network_interface(AttachmentId=second["AttachmentId"])
"""


def test_an_unchanged_boto3_in_a_node_attaches_an_eni(lab: Lab) -> None:
    """Credentials come from the node's own metadata; the link is there when EC2 has answered."""
    node = lab.nodes[0]
    boto3 = [sys.executable, "-c", BOTO3, node.instance_id]
    mac = node.run([*boto3, "attach"]).stdout.strip()
    assert mac in node.run(["ip", "link", "show", "eth1"]).stdout
    (told,) = lab.call(lab.status)["nodes"]
    assert [len(eni["blocks"]) for eni in told["enis"]] == [0, 2]

    node.run([*boto3, "detach"])
    assert "eth1" not in node.run(["ip", "link"]).stdout
    assert {call.caller for call in lab.cloud.calls} == {node.instance_id}


def test_blocks_are_routed_as_soon_as_ec2_has_answered(lab: Lab) -> None:
    """Nobody has to wait between the answer of an assign call and the pod's first packet."""
    node = lab.nodes[0]
    (primary,) = lab.call(lambda: lab.vpc.interfaces_of(node.instance_id, 0))
    (block,) = lab.call(
        lambda: lab.vpc.assign_private_ip_addresses(primary.eni_id, BlockKind.PREFIX, 1, 0)
    )
    assert f"{block} via {primary.primary_ip}" in lab.fabric.router.show("route")
    lab.call(lambda: lab.vpc.unassign_private_ip_addresses(primary.eni_id, (block,), 0))
    assert str(block) not in lab.fabric.router.show("route")


def test_the_status_tells_what_there_is(lab: Lab) -> None:
    """Nodes with their daemons and ENIs, subnets with their free addresses, as JSON."""
    told = json.loads(json.dumps(lab.call(lab.status)))
    (node,) = told["nodes"]
    assert node["daemon_pid"] == lab.nodes[0].daemon_pid
    assert [eni["device_index"] for eni in node["enis"]] == [0]
    assert told["subnets"] == [{"cidr": "10.0.0.0/20", "free": 4090, "free_prefixes": 253}]


def test_a_machine_without_the_programs_is_told(
    plan: LabPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is named, and the package that has it."""
    monkeypatch.setattr(machine, "PATH", "/nonexistent")
    with pytest.raises(MachineError, match="'ip' is missing: install iproute2"):
        Lab(plan)


def test_missing_packages_are_told(plan: LabPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever installed warmbench alone learns the name of the extra."""
    monkeypatch.setattr(machine, "PACKAGES", ("aiohttp", "not_installed_anywhere"))
    with pytest.raises(MachineError, match=r"needs not_installed_anywhere: .*\[lab\]"):
        Lab(plan)


def test_only_root_can_have_a_lab(plan: LabPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else is told so before anything is made."""
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    with pytest.raises(MachineError, match="needs root"):
        Lab(plan)


def test_a_plugin_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The choices are named."""
    with pytest.raises(LabError, match="python, c or a path"):
        install_plugin(str(tmp_path / "none"), tmp_path / "aws-cni")


@pytest.mark.parametrize("kind", ["python", "c"])
def test_both_plugins_are_installed(tmp_path: Path, kind: str) -> None:
    """Each runs as a file by itself and answers VERSION."""
    if kind == "c" and shutil.which("gcc", path=PATH) is None:
        pytest.skip("gcc is not installed")
    target = tmp_path / "aws-cni"
    install_plugin(kind, target)
    done = subprocess.run(  # noqa: S603 - just made
        [target], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True
    )
    assert "1.0.0" in json.loads(done.stdout)["supportedVersions"]


def test_what_is_mounted_in_a_folder_outlives_it(tmp_path: Path) -> None:
    """A runtime's mounts are undone, not emptied."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run"
    inner = folder / "a b" / "rootfs"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    inner.mkdir(parents=True)
    subprocess.run(["mount", "--bind", elsewhere, inner], check=True)  # noqa: S603, S607 - a fixed program
    try:
        remove_folder(folder)
    finally:
        subprocess.run(["umount", "-q", inner], check=False)  # noqa: S603, S607 - as above
    assert not folder.exists()
    assert (elsewhere / "kept").exists()
    remove_folder(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "a-b"}, "name 'a-b'"),
        ({"nodes": 0}, "0 nodes"),
        ({"nodes": 17}, "17 nodes"),
        ({"latency": -1}, "latency -1"),
        ({"latency": float("nan")}, "latency nan"),
        ({"subnet": "10.0.0.1/20"}, "host bits"),
        ({"subnet": "10.9.0.0/20"}, "not within"),
        ({"vpc_cidrs": ("10.0.0.0",)}, "no mask length"),
        ({"run_dir": Path("/tmp") / ("x" * 90)}, "choose a shorter folder"),  # noqa: S108 - never made
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    plan: LabPlan, change: dict[str, Any], match: str
) -> None:
    """Each in one line, before anything is made."""
    with pytest.raises(ValueError, match=match):
        replace(plan, **change)


def test_a_plan_survives_its_file(plan: LabPlan) -> None:
    """What the server reads is what the command has written."""
    plan = replace(plan, settings={"WARM_IP_TARGET": "3"}, nodes=2)
    assert LabPlan.from_json(plan.to_json()) == plan
