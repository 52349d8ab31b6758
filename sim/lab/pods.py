"""What a container runtime does for a pod's network, as containerd and libcni do it.

A pod is a network namespace; ADD and DEL run the plug-ins of the node's configuration list with
the CNI variables. Every pod has a file, so that another process can delete it later, with the
result of its ADD as prevResult. Sources: CNI specification 1.1, sections 2 to 4; containerd
1.6's order of calls: DEL when the sandbox stops, and again, without namespace and prevResult,
when it is removed.
"""

import json
import re
import secrets
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from sim.lab.errors import LabError
from sim.lab.namespace import PATH, Namespace

IFNAME = "eth0"
POD_NAMESPACE = "default"
RUNTIME_TIMEOUT_S = 120.0
"""How long a runtime waits for one command before it gives up."""

STOCK_PLUGINS = (Path("/opt/cni/bin"), Path("/usr/lib/cni"))
"""Where distributions put the plug-ins that ours may be chained with."""

Json = Mapping[str, Any]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class CniRefusedError(LabError):
    """A plug-in answered with a CNI error: `code`, `message` and `details` as it gave them."""

    def __init__(self, command: str, code: int, message: str, details: str) -> None:
        text = f"{command} failed with CNI error {code}: {message}"
        super().__init__(f"{text} ({details})" if details else text)
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with its network; `result` is what ADD answered, empty if it has not succeeded."""

    name: str
    node: str
    container_id: str
    namespace: Namespace
    result: Json = field(hash=False)

    @property
    def address(self) -> IPv4Address:
        """The pod's address."""
        return IPv4Interface(self.result["ips"][0]["address"]).ip

    def run(
        self, words: Sequence[str], *, timeout_s: float = 30.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the pod's network; LabError where it fails or takes longer."""
        return self.namespace.run(words, timeout_s=timeout_s, check=check)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The container runtime of one node; its files are in `directory`."""

    node: Namespace
    node_name: str
    directory: Path
    prefix: str
    """What the names of the pods' namespaces begin with."""

    @property
    def conf_dir(self) -> Path:
        """Where the daemon puts its configuration list."""
        return self.directory / "cni" / "net.d"

    @property
    def bin_dir(self) -> Path:
        """Where the plug-in is installed."""
        return self.directory / "cni" / "bin"

    @property
    def state_dir(self) -> Path:
        """Where the daemon keeps its socket, ledger and journal."""
        return self.directory / "state"

    @property
    def _pods_dir(self) -> Path:
        return self.directory / "pods"

    def prepare(self) -> None:
        """Make the folders."""
        for path in (self.conf_dir, self.bin_dir, self.state_dir, self._pods_dir):
            path.mkdir(parents=True, exist_ok=True)

    def conf_list(self) -> Json | None:
        """Return the configuration list a runtime would use; None while there is none."""
        found = sorted(self.conf_dir.glob("*.conflist"))
        if not found:
            return None
        try:
            read: Json = json.loads(found[0].read_bytes())
        except ValueError as error:
            raise LabError(f"{found[0]} is not JSON: {error}") from error
        return read

    # Pods

    def add(self, name: str) -> Pod:
        """Make a pod and its network.

        Raises ValueError for a bad or taken name, CniRefusedError where the plug-in refuses; then
        nothing is left of the pod, as DEL was called.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"pod {name!r}: a name is a-z, 0-9 and -, such as web-1")
        record = self._record(name)
        namespace = Namespace(f"{self.prefix}pod-{name}")
        if record.exists() or namespace.path.exists():
            raise ValueError(f"there is a pod {name} already: choose another name")
        container_id = secrets.token_hex(32)
        pod = Pod(name, self.node_name, container_id, namespace, {})
        self._write(pod)
        try:
            namespace.create()
            added = Pod(name, self.node_name, container_id, namespace, self._add_network(pod))
        except BaseException:
            # As a runtime does after a failed ADD. Where DEL fails too, the pod stays on file,
            # so that it can be deleted later; what went wrong first is what the user needs.
            with suppress(LabError):
                self.delete(name)
            raise
        self._write(added)
        return added

    def delete(self, name: str) -> None:
        """Delete a pod as containerd does: DEL, the namespace, and DEL once more.

        Raises CniRefusedError where a DEL fails; the pod is there still and can be deleted again.
        """
        pod = self.find(name)
        self._delete_network(pod, str(pod.namespace.path), pod.result)
        pod.namespace.remove()
        self._delete_network(pod, "", {})
        self._record(name).unlink()

    def check(self, pod: Pod) -> None:
        """Call CHECK; CniRefusedError where something of the pod's network is missing."""
        for plugin in self._plugins():
            self._execute("CHECK", plugin, pod, str(pod.namespace.path), pod.result)

    def ask(self, command: str, more: Json | None = None) -> Json:
        """Call STATUS, VERSION or GC of our plug-in; `more` joins its configuration."""
        (plugin, *_) = self._plugins()
        return self._execute(command, {**plugin, **(more or {})}, None, "", {})

    def find(self, name: str) -> Pod:
        """Return a pod by name; LookupError where there is none."""
        try:
            told = json.loads(self._record(name).read_bytes())
        except (FileNotFoundError, ValueError) as error:
            known = ", ".join(path.stem for path in sorted(self._pods_dir.glob("*.json")))
            raise LookupError(
                f"{self.node_name} has no pod {name!r}; it has {known or 'none'}"
            ) from error
        namespace = Namespace(f"{self.prefix}pod-{name}")
        return Pod(name, self.node_name, told["container_id"], namespace, told["result"])

    def pods(self) -> tuple[Pod, ...]:
        """Return all pods by name; one whose ADD has failed, and DEL too, has no result."""
        return tuple(self.find(path.stem) for path in sorted(self._pods_dir.glob("*.json")))

    # Inside

    def _record(self, name: str) -> Path:
        return self._pods_dir / f"{name}.json"

    def _write(self, pod: Pod) -> None:
        text = json.dumps({"container_id": pod.container_id, "result": pod.result})
        writing = self._pods_dir / f".{pod.name}.writing"
        writing.write_text(text, encoding="utf-8")
        writing.replace(self._record(pod.name))

    def _plugins(self) -> list[Json]:
        """Return the configuration of each plug-in in the list, as libcni hands it over.

        What is chained behind ours and not installed on this machine is left out: the lab is
        about ours, which comes first.
        """
        conf = self.conf_list()
        if conf is None:
            raise LabError(f"{self.node_name} has no configuration list: its daemon is not ready")
        shared = {"cniVersion": conf["cniVersion"], "name": conf["name"]}
        own, *chained = ({**plugin, **shared} for plugin in conf["plugins"])
        return [own, *(plugin for plugin in chained if self._find_plugin(plugin["type"]))]

    def _find_plugin(self, kind: str) -> Path | None:
        places = (folder / kind for folder in (self.bin_dir, *STOCK_PLUGINS))
        return next((place for place in places if place.is_file()), None)

    def _add_network(self, pod: Pod) -> Json:
        result: Json = {}
        for plugin in self._plugins():
            result = self._execute("ADD", plugin, pod, str(pod.namespace.path), result)
        if not result.get("ips"):
            raise LabError(f"ADD of {pod.name} succeeded without an address: {json.dumps(result)}")
        return result

    def _delete_network(self, pod: Pod, netns: str, result: Json) -> None:
        for plugin in reversed(self._plugins()):
            self._execute("DEL", plugin, pod, netns, result)

    def _execute(
        self, command: str, conf: Json, pod: Pod | None, netns: str, prev_result: Json
    ) -> Json:
        """Run one plug-in once; return what it printed."""
        kind = conf["type"]
        program = self._find_plugin(kind)
        if program is None:
            raise LabError(f"plug-in {kind!r} is not in {self.bin_dir}")
        stdin = json.dumps({**conf, "prevResult": prev_result} if prev_result else conf)
        done = self.node.run(
            [str(program)],
            stdin=stdin,
            environment=self._variables(command, pod, netns),
            timeout_s=RUNTIME_TIMEOUT_S,
            check=False,
        )
        try:
            answer = json.loads(done.stdout) if done.stdout.strip() else {}
        except ValueError as error:
            raise LabError(f"{command}: {kind} printed no JSON: {done.stdout[:200]!r}") from error
        if done.returncode == 0:
            return dict(answer)
        if "code" not in answer:
            said = done.stderr.strip()[-300:]
            raise LabError(f"{command}: {kind} ended with {done.returncode} and said: {said!r}")
        raise CniRefusedError(
            command, int(answer["code"]), str(answer.get("msg", "")), str(answer.get("details", ""))
        )

    def _variables(self, command: str, pod: Pod | None, netns: str) -> Mapping[str, str]:
        """Return a plug-in's environment: CNI specification, section 2, "Parameters"."""
        variables = {
            "CNI_COMMAND": command,
            "CNI_PATH": ":".join(map(str, (self.bin_dir, *STOCK_PLUGINS))),
            "PATH": PATH,
            "WARMBENCH_STATE_DIR": str(self.state_dir),
        }
        if pod is None:
            return variables
        uid = uuid.uuid5(uuid.NAMESPACE_OID, pod.container_id)
        arguments = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": POD_NAMESPACE,
            "K8S_POD_NAME": pod.name,
            "K8S_POD_INFRA_CONTAINER_ID": pod.container_id,
            "K8S_POD_UID": str(uid),
        }
        return variables | {
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": netns,
            "CNI_IFNAME": IFNAME,
            "CNI_ARGS": ";".join(f"{name}={value}" for name, value in arguments.items()),
        }
