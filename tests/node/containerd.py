"""A real containerd with its CRI service, in the network namespace of a node.

Everything it writes lies below one folder. What had to be found out:

- containerd executes the stock `loopback` plug-in for each sandbox besides what the network
  configuration names, so the plug-ins' folder must hold it.
- `restrict_oom_score_adj` is needed where root lacks CAP_SYS_RESOURCE: runc fails otherwise
  with "can't get final child's PID from pipe".
- It watches the configuration folder for writes and for renames within it. A file that is moved
  in from another folder is not seen until something else happens there (1.6.20, 1.7.24).
- It hands its environment on to the plug-ins, which is how they learn WARMBENCH_STATE_DIR.
- 1.6 cannot take a result of CNI 1.1.0.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.node.box import PROGRAMS as BOX_PROGRAMS
from tests.node.box import START_S, Box, children_of
from tests.node.cri import Cri
from tests.node.waiting import wait_until

PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "cc", *BOX_PROGRAMS)
PAUSE_IMAGE = "local.test/pause:1"
STOCK_PLUGINS = Path("/usr/lib/cni")
# The native snapshotter copies the image; overlayfs would not do where /tmp is an overlay.
CONFIGURATION = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{folder}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/bin"
    conf_dir = "{conf_dir}"
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"""


@dataclass
class Containerd:
    """A containerd that runs in a box; `cri` speaks to it, also after a restart."""

    box: Box
    environment: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _cri: Cri | None = field(default=None, init=False)

    @property
    def cri(self) -> Cri:
        """The client; another one after each start."""
        assert self._cri is not None, "containerd was not started"
        return self._cri

    @property
    def folder(self) -> Path:
        """Where everything of containerd is, the plug-ins in `bin` too."""
        return self.box.folder / "containerd"

    @property
    def socket(self) -> Path:
        """The socket of containerd and its CRI service."""
        return self.folder / "c.sock"

    def start(self) -> None:
        """Start containerd and wait until its CRI service answers."""
        with (self.folder / "containerd.log").open("ab") as log:
            command = ["containerd", "--config", str(self.folder / "config.toml")]
            self._process = self.box.start(command, self.environment, log)
        self._cri = Cri(self.socket, self.box.cgroup, self.folder / "pods")
        try:
            wait_until(self._answers, START_S, "containerd answers")
        except TimeoutError as late:
            raise TimeoutError(f"{late}; its log ends:\n{self.said()}") from None

    def kill(self) -> None:
        """End containerd as a crash would; its shims and sandboxes live on."""
        if self._cri is not None:
            self._cri.close()
            self._cri = None
        if self._process is not None:
            for inside in children_of(self._process.pid):
                os.kill(inside, signal.SIGKILL)
            self._process.wait(START_S)
            self._process = None

    def load_image(self, archive: Path, name: str) -> None:
        """Take an image from a tar and wait until the CRI service knows it."""
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io"]
        loaded = self.box.run([*command, "images", "import", str(archive)], {}, START_S)
        assert loaded.returncode == 0, loaded.stderr
        wait_until(lambda: self.cri.has_image(name), START_S, f"containerd knows {name}")

    def said(self) -> str:
        """Give the last lines of containerd's log."""
        log = (self.folder / "containerd.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(log.splitlines()[-20:])

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"containerd ended:\n{self.said()}"
        return self.cri.serves()


@contextlib.contextmanager
def running_containerd(
    box: Box,
    *,
    conf_dir: Path,
    plugins: Mapping[str, Path],
    environment: Mapping[str, str],
    images: Sequence[tuple[Path, str]],
) -> Iterator[Containerd]:
    """Run containerd in `box` with the given plug-ins (name to program) and images (tar, name).

    The box ends what is left of it; its folder must be short, because it will hold a socket.
    """
    folder = box.folder / "containerd"
    (folder / "bin").mkdir(parents=True)
    for name, program in plugins.items():
        (folder / "bin" / name).symlink_to(program)
    text = CONFIGURATION.format(folder=folder, conf_dir=conf_dir, pause=PAUSE_IMAGE)
    (folder / "config.toml").write_text(text, encoding="utf-8")
    containerd = Containerd(box, environment)
    try:
        containerd.start()
        for archive, name in images:
            containerd.load_image(archive, name)
        yield containerd
    finally:
        containerd.kill()
