"""A whole lab, from Python: the VPC's network, EC2, nodes with the unchanged daemon, pods.

    with Lab(LabPlan(name="demo", run_dir=tmp_path, latency=0)) as lab:
        node = lab.nodes[0]
        pod = node.add_pod("web-1")
        lab.nodes[1].add_pod("web-2").run(["ping", "-c", "1", str(pod.address)])
        node.kill_daemon()
        node.start_daemon()

EC2 runs in this process, in the thread of `lab.services`, so that a test can look at the VPC and
put faults into it: what touches `lab.vpc` or `lab.cloud` goes through `lab.call`. Leaving the
block ends all processes and removes all namespaces, whatever has happened in it.
"""

import asyncio
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import cni
from sim.cloud_numbers import CloudNumbers, Delay
from sim.lab import fabric as fabrics
from sim.lab import processes
from sim.lab.account import LabVpc
from sim.lab.endpoint import LabCloud
from sim.lab.errors import LabError, MachineError
from sim.lab.fabric import Fabric
from sim.lab.folder import remove_folder
from sim.lab.machine import require_machine, require_packages
from sim.lab.namespace import PATH, names_beginning
from sim.lab.node import LabNode
from sim.lab.plan import LabPlan
from sim.lab.pods import Runtime
from sim.lab.routed_vpc import RoutedVpc
from sim.lab.services import Services, echo_app
from sim.node_type import named
from sim.streams import Draws, stream
from sim.subnet import Subnet
from sim.vpc import EniDescription

SUBNET_ID = "subnet-0"
PLUGIN = "aws-cni"

_COMPILE_TIMEOUT_S = 120.0

T = TypeVar("T")


class Lab:
    """A lab that is up between entering and leaving its `with` block."""

    def __init__(
        self,
        plan: LabPlan,
        *,
        numbers: CloudNumbers | None = None,
        on_step: Callable[[str], None] = lambda _: None,
        keep_files: bool = False,
    ) -> None:
        """Check the plan; make nothing yet.

        Raises ValueError for a plan that cannot be and MachineError where this machine or user
        cannot have a lab. `numbers` are EC2's in place of the shipped ones; `keep_files` leaves
        logs and ledgers when the lab is over.
        """
        require_machine()
        require_packages()
        self.plan = plan
        self.nodes: list[LabNode] = []
        self.fabric = Fabric(
            plan.prefix, map(IPv4Network, plan.vpc_cidrs), [IPv4Network(plan.subnet)]
        )
        self._numbers = scaled(numbers or CloudNumbers.load(), plan.latency)
        self._on_step = on_step
        self._keep_files = keep_files
        self._facts = LabVpc(tuple(map(IPv4Network, plan.vpc_cidrs)))
        self._node_type = named(plan.instance)
        self._undo = ExitStack()
        self._node_of: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, remove all namespaces and files; a second call does nothing."""
        self._undo.close()

    # Looking and changing

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the thread that owns the VPC and the cloud."""
        return self.services.call(function)

    def node(self, name: str) -> LabNode:
        """Return a node by name; LookupError where there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise LookupError(f"the lab has no node {name!r}; it has {known}")

    def status(self) -> dict[str, Any]:
        """Return what there is, ready for JSON; to be called in the thread of the services."""
        now = self.cloud.now()
        return {
            "name": self.plan.name,
            "instance": self.plan.instance,
            "settings": dict(self.plan.settings),
            "subnets": [
                {"cidr": str(one.cidr), "free": one.free, "free_prefixes": one.free_prefixes}
                for one in self.vpc.describe_subnets()
            ],
            "nodes": [
                {
                    "name": node.name,
                    "instance_id": node.instance_id,
                    "namespace": node.namespace.name,
                    "daemon_pid": node.daemon_pid,
                    "daemon_starts": node.starts,
                    "log": str(node.log),
                    "enis": [_told(eni) for eni in self.vpc.interfaces_of(node.instance_id, now)],
                }
                for node in self.nodes
            ],
            "spoofed_packets": self.fabric.spoofed_packets(),
        }

    def restart_ended_daemons(self) -> tuple[str, ...]:
        """Start daemons anew that have ended, as the kubelet does; return their nodes' names."""
        ended = [node for node in self.nodes if node.starts and node.daemon_pid is None]
        for node in ended:
            node.start_daemon(wait=False)
        return tuple(node.name for node in ended)

    # Coming up

    def _up(self) -> None:
        self._make_directory()
        self._undo.callback(self.fabric.remove)
        self._on_step("making the VPC's network")
        self.fabric.build()
        self.services = Services()
        self._undo.callback(self.services.close)
        # Whoever runs in the lab's network goes before it, a user's own commands too.
        self._undo.callback(self._end_processes)
        self.vpc = self._make_vpc()
        self.cloud = self._make_cloud()
        self._undo.callback(lambda: self.services.wait_for(self.cloud.close()))
        port = 80
        far = ((self.fabric.internet, fabrics.INTERNET_HOST), (self.fabric.peer, fabrics.PEER_HOST))
        for namespace, host in far:
            self.services.serve(echo_app(), namespace.listen(str(host), port))
        for index in range(self.plan.nodes):
            self._add_node(index)
        for node in self.nodes:
            self._on_step(f"starting the daemon of {node.name}")
            node.start_daemon(wait=False)
        for node in self.nodes:
            node.wait_ready()
        self._on_step("ready")

    def _make_directory(self) -> None:
        directory = self.plan.directory
        if not self._keep_files:
            self._undo.callback(remove_folder, directory)
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise LabError(f"cannot make {directory}: {error.strerror}") from error

    def _make_vpc(self) -> RoutedVpc:
        placement = stream(self.plan.seed, "placement", SUBNET_ID)
        subnet = Subnet(SUBNET_ID, self.plan.subnet, placement, zone=self._facts.zone(""))
        return RoutedVpc([subnet], self.fabric.route_blocks)

    def _make_cloud(self) -> LabCloud:
        """Make EC2; ENIs that it attaches and detaches show in their nodes."""
        return LabCloud(
            self.vpc,
            self._numbers,
            Draws(self.plan.seed, "ec2"),
            facts=self._facts,
            now=time.monotonic,
            sleep=asyncio.sleep,
            on_attached=self._attach,
            on_detached=lambda _, eni, __: self.fabric.detach(eni.eni_id),
        )

    def _add_node(self, index: int) -> None:
        """Start an instance: its namespace, its primary ENI, its metadata and EC2's endpoint."""
        name = f"node-{index + 1}"
        instance_id = f"i-{index + 1:017x}"
        self._on_step(f"starting {name}, an {self.plan.instance}")
        namespace = self.fabric.add_node(name)
        runtime = Runtime(namespace, name, self.plan.directory / name, self.plan.prefix)
        runtime.prepare()
        install_plugin(self.plan.plugin, runtime.bin_dir / PLUGIN)
        self._node_of[instance_id] = name
        primary = self.call(lambda: self.cloud.launch(instance_id, self._node_type, SUBNET_ID))
        self.fabric.attach(name, primary, self.cloud.mac_of(primary))
        self.fabric.boot(name, primary)
        imds = namespace.listen(str(fabrics.IMDS_ADDRESS), 80)
        self.services.serve(self.call(lambda: self.cloud.imds_app(instance_id)), imds)
        ec2 = namespace.listen(str(fabrics.EC2_ADDRESS), 80)
        self.services.serve(self.call(self.cloud.ec2_app), ec2)
        environment = self._environment(name, runtime)
        self.nodes.append(
            LabNode(
                name,
                instance_id,
                namespace,
                runtime,
                self.plan.daemon,
                environment,
                self.plan.ready_timeout_s,
            )
        )

    def _attach(self, instance_id: str, eni: EniDescription, mac: str) -> None:
        """Let an ENI's link appear, with the blocks it has by now."""
        node = self._node_of[instance_id]
        (fresh,) = self.vpc.describe_network_interfaces((eni.eni_id,), self.cloud.now())
        self.fabric.attach(node, fresh, mac)

    def _environment(self, name: str, runtime: Runtime) -> Mapping[str, str]:
        """Return what the DaemonSet's manifest would set, and where AWS is."""
        endpoint = f"http://{fabrics.EC2_ADDRESS}"
        return {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(Path(cni.__file__).parents[1]),
            "PYTHONUNBUFFERED": "1",
            "WARMBENCH_STATE_DIR": str(runtime.state_dir),
            "HOST_CNI_CONFDIR_PATH": str(runtime.conf_dir),
            "HOST_CNI_BIN_PATH": str(runtime.bin_dir),
            "MY_NODE_NAME": name,
            "CLUSTER_NAME": self.plan.name,
            "AWS_VPC_K8S_CNI_BACKING_STORE": str(runtime.state_dir / "ipam.json"),
            "AWS_VPC_K8S_CNI_LOG_FILE": "stdout",
            "AWS_VPC_K8S_PLUGIN_LOG_FILE": "stderr",
            "AWS_REGION": self._facts.region,
            "AWS_EC2_ENDPOINT": endpoint,
            "AWS_ENDPOINT_URL_EC2": endpoint,
            # Credentials come from the node's metadata; a real account's must never be sent.
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            **self.plan.settings,
        }

    def _end_processes(self) -> None:
        for node in self.nodes:
            node.end_daemon()
        processes.end_all_in(names_beginning(self.plan.prefix))


def scaled(numbers: CloudNumbers, factor: float) -> CloudNumbers:
    """Return numbers whose latencies are multiplied; with 0 EC2 answers at once, without limits."""
    if factor == 0:
        return CloudNumbers.instant()

    def times(delay: Delay) -> Delay:
        return replace(
            delay, median_s=delay.median_s * factor, tail_max_s=delay.tail_max_s * factor
        )

    return replace(
        numbers,
        latencies={api: times(delay) for api, delay in numbers.latencies.items()},
        eni_visible=times(numbers.eni_visible),
        copy_lag=times(numbers.copy_lag),
        detach_min_s=numbers.detach_min_s * factor,
        detach_max_s=numbers.detach_max_s * factor,
    )


def install_plugin(kind: str, target: Path) -> None:
    """Put the plug-in where the runtime finds it: "python", "c", or an executable's path."""
    sources = Path(cni.__file__).parent / "plugin"
    if kind == "c":
        _compile(sources / "aws-cni.c", target)
    elif kind == "python":
        text = (sources / "__main__.py").read_text(encoding="utf-8")
        # The interpreter that runs the lab is one that surely exists on this machine.
        body = text.partition("\n")[2] if text.startswith("#!") else text
        target.write_text(f"#!{sys.executable} -ISE\n{body}", encoding="utf-8")
    else:
        try:
            shutil.copyfile(kind, target)
        except OSError as error:
            raise LabError(f"plug-in {kind!r}: {error.strerror}; python, c or a path") from error
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _compile(source: Path, target: Path) -> None:
    compiler = shutil.which("gcc", path=PATH)
    if compiler is None:
        raise MachineError("the C plug-in needs the program 'gcc': install gcc and libc6-dev")
    done = subprocess.run(
        [compiler, "-O2", "-static", "-o", str(target), str(source)],
        capture_output=True,
        text=True,
        timeout=_COMPILE_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"gcc cannot compile {source}: {done.stderr.strip()[-300:]}")


def _told(eni: EniDescription) -> dict[str, Any]:
    assert eni.attachment is not None
    return {
        "eni_id": eni.eni_id,
        "device_index": eni.attachment.device_index,
        "primary_ip": str(eni.primary_ip),
        "blocks": [str(block) for block in eni.blocks],
    }
