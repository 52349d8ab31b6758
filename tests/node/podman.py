"""Podman with CNI networks, in the network namespace of a node: a second, stricter runtime.

It refuses a result whose interfaces have no `mac`, and hands prevResult to DEL. It knows the
networks by the names in the files of its configuration folder. Its own defaults for ulimits are
higher than root may set without CAP_SYS_RESOURCE, so the configuration here lowers them.

The plug-in may be executed without the variables that podman was given: when a container ends,
conmon starts a podman with hardly any, and either that one or `podman rm` sends DEL.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.node.box import PROGRAMS as BOX_PROGRAMS
from tests.node.box import Box

PROGRAMS = ("podman", "conmon", "runc", "cc", *BOX_PROGRAMS)
CALL_S = 60.0
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[network]
cni_plugin_dirs = ["{folder}/bin"]
network_backend = "cni"
network_config_dir = "{conf_dir}"
"""


class PodmanError(Exception):
    """What podman said when it failed."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container that runs: what the plug-in was told, and what podman made of its answer."""

    container_id: str
    address: str
    mac: str


class Podman:
    """Podman with storage and configuration of its own, below the folder of its box."""

    def __init__(
        self,
        box: Box,
        *,
        conf_dir: Path,
        plugins: Mapping[str, Path],
    ) -> None:
        self._box = box
        self._folder = folder = box.folder / "podman"
        configuration = folder / "containers.conf"
        (folder / "bin").mkdir(parents=True)
        for name, program in plugins.items():
            (folder / "bin" / name).symlink_to(program)
        text = CONFIGURATION.format(folder=folder, conf_dir=conf_dir)
        configuration.write_text(text, encoding="utf-8")
        self._environment = {"CONTAINERS_CONF": str(configuration), "TMPDIR": str(folder)}

    def load_image(self, archive: Path) -> None:
        """Take an image from an OCI tar."""
        self._podman("load", "--quiet", "--input", str(archive))

    def start(self, name: str, network: str, image: str) -> Container:
        """Start a container that waits, with one interface in `network`."""
        container_id = self._podman(
            "run",
            *("--detach", "--name", name, "--network", network),
            *("--cgroup-parent", self._box.cgroup, "--pull", "never"),
            image,
        ).strip()
        (seen,) = json.loads(self._podman("container", "inspect", name))
        told = seen["NetworkSettings"]["Networks"][network]
        return Container(container_id, told["IPAddress"], told["MacAddress"])

    def execute(self, name: str, command: Sequence[str]) -> str:
        """Run a program in a container and give what it wrote."""
        return self._podman("exec", name, *command)

    def remove(self, name: str) -> None:
        """Kill a container and remove it; its network goes with it."""
        self._podman("rm", "--force", "--time", "0", name)

    def _podman(self, *arguments: str) -> str:
        done = self._box.run(
            [
                "podman",
                *("--root", str(self._folder / "root"), "--storage-driver", "vfs"),
                # The box has a /run of its own, and podman takes 50 characters at most.
                *("--runroot", "/run/podman", "--tmpdir", "/run/libpod"),
                *arguments,
            ],
            self._environment,
            CALL_S,
        )
        if done.returncode != 0:
            raise PodmanError(f"podman {arguments[0]}: {done.stderr.strip()}")
        return done.stdout
