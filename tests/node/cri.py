"""The Container Runtime Interface, v1, as the kubelet speaks it to its runtime."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from cri_api.v1 import api_pb2, api_pb2_grpc

# The runtime itself gives up an ADD after two minutes; a test does long before.
CALL_S = 60.0
Taken = TypeVar("Taken")
Given = TypeVar("Given")


class CriError(Exception):
    """What the runtime answered instead of doing what it was asked: its whole text."""


@dataclass(frozen=True, slots=True)
class PodSandbox:
    """What PodSandboxStatus says; `address` is empty for a sandbox without network."""

    ready: bool
    address: str
    name: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Executed:
    """How a program in a container ended, and what it wrote."""

    exit_code: int
    output: str


class Cri:
    """A client on the runtime's socket; its calls may be made from many threads at once."""

    def __init__(self, socket: Path, cgroup_parent: str, logs: Path) -> None:
        # gRPC waits a second before it tries a socket again that nobody serves yet.
        soon = [(f"grpc.{which}_reconnect_backoff_ms", 20) for which in ("initial", "min", "max")]
        self._channel = grpc.insecure_channel(f"unix://{socket}", options=soon)
        self._runtime = api_pb2_grpc.RuntimeServiceStub(self._channel)
        self._images = api_pb2_grpc.ImageServiceStub(self._channel)
        self._cgroup_parent = cgroup_parent
        self._logs = logs
        self._configs: dict[str, api_pb2.PodSandboxConfig] = {}

    def close(self) -> None:
        """Leave the socket."""
        self._channel.close()

    def run_pod_sandbox(self, name: str, namespace: str = "default") -> str:
        """Start a sandbox and give its ID: the container ID that the plug-in is told."""
        metadata = api_pb2.PodSandboxMetadata(name=name, namespace=namespace, uid=str(uuid.uuid4()))
        config = api_pb2.PodSandboxConfig(
            metadata=metadata,
            log_directory=str(self._logs / name),
            linux=api_pb2.LinuxPodSandboxConfig(cgroup_parent=self._cgroup_parent),
        )
        asked = api_pb2.RunPodSandboxRequest(config=config)
        sandbox_id: str = call(self._runtime.RunPodSandbox, asked).pod_sandbox_id
        self._configs[sandbox_id] = config
        return sandbox_id

    def stop_pod_sandbox(self, sandbox_id: str) -> None:
        """Stop a sandbox; its network goes."""
        asked = api_pb2.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        call(self._runtime.StopPodSandbox, asked)

    def remove_pod_sandbox(self, sandbox_id: str) -> None:
        """Remove a stopped sandbox; the runtime sends DEL a second time."""
        asked = api_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        call(self._runtime.RemovePodSandbox, asked)

    def end(self, sandbox_id: str) -> None:
        """Stop and remove a sandbox, as the kubelet does in the end."""
        self.stop_pod_sandbox(sandbox_id)
        self.remove_pod_sandbox(sandbox_id)

    def status(self, sandbox_id: str) -> PodSandbox:
        """Say what the runtime knows of a sandbox."""
        asked = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        said = call(self._runtime.PodSandboxStatus, asked).status
        return PodSandbox(
            ready=said.state == api_pb2.PodSandboxState.SANDBOX_READY,
            address=said.network.ip,
            name=said.metadata.name,
            namespace=said.metadata.namespace,
        )

    def sandboxes(self) -> dict[str, bool]:
        """List all sandboxes by ID, and whether each is ready."""
        listed = call(self._runtime.ListPodSandbox, api_pb2.ListPodSandboxRequest()).items
        return {one.id: one.state == api_pb2.PodSandboxState.SANDBOX_READY for one in listed}

    def network_problem(self) -> str:
        """Say why pods would get no network, in the runtime's words; empty when they would.

        This is the condition that makes the kubelet's node Ready.
        """
        said = call(self._runtime.Status, api_pb2.StatusRequest()).status
        (network,) = (one for one in said.conditions if one.type == "NetworkReady")
        return "" if network.status else network.message or network.reason

    def node_ready(self) -> bool:
        """Tell whether the runtime would let pods start."""
        return not self.network_problem()

    def serves(self) -> bool:
        """Tell whether the runtime answers already."""
        try:
            call(self._runtime.Status, api_pb2.StatusRequest())
        except CriError:
            return False
        return True

    def has_image(self, name: str) -> bool:
        """Tell whether the runtime knows an image: importing one tells it a little later."""
        asked = api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=name))
        return bool(call(self._images.ImageStatus, asked).image.id)

    def start_container(self, sandbox_id: str, image: str) -> str:
        """Start a container in a sandbox that this client has run; its log is thrown away."""
        asked = api_pb2.CreateContainerRequest(
            pod_sandbox_id=sandbox_id,
            config=api_pb2.ContainerConfig(
                metadata=api_pb2.ContainerMetadata(name="main"),
                image=api_pb2.ImageSpec(image=image),
                linux=api_pb2.LinuxContainerConfig(),
            ),
            sandbox_config=self._configs[sandbox_id],
        )
        container_id: str = call(self._runtime.CreateContainer, asked).container_id
        started = api_pb2.StartContainerRequest(container_id=container_id)
        call(self._runtime.StartContainer, started)
        return container_id

    def execute(self, container_id: str, command: Sequence[str]) -> Executed:
        """Run a program in a container and wait for it."""
        asked = api_pb2.ExecSyncRequest(container_id=container_id, cmd=command, timeout=10)
        said = call(self._runtime.ExecSync, asked)
        return Executed(said.exit_code, (said.stdout + said.stderr).decode())


def call(method: Callable[..., Any], asked: object) -> Any:
    """Make one call; raise CriError with the runtime's text where it refuses."""
    try:
        return method(asked, timeout=CALL_S)
    except grpc.RpcError as refused:
        raise CriError(refused.details()) from None


def at_once(work: Callable[[Given], Taken], items: Iterable[Given]) -> list[Taken]:
    """Do the same with each item, each in a thread of its own; the first error is raised."""
    all_items = list(items)
    with ThreadPoolExecutor(max_workers=max(len(all_items), 1)) as threads:
        return list(threads.map(work, all_items))
