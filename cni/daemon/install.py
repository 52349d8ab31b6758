"""Put the plug-ins and the network configuration on the node.

Two callers: the init container installs the plug-ins (`main`), and the daemon writes the
configuration at the end of its start, since by that file the runtime learns that the node has a
network. A file appears whole or not at all: whoever reads or executes it meanwhile, and whatever
kills us, sees the old one or the new one.
"""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from cni.daemon.takeover import objection
from cni.settings import SettingsError, parse

NETWORK = "aws-cni"
"""Name of the network in the configuration; upstream's, so that a node can change hands."""

PLUGIN = "aws-cni"
CONFLIST = "10-aws.conflist"

STOCK = ("loopback", "portmap")
"""Stock plug-ins a node cannot do without: containerd 1.6 executes loopback for each sandbox,
portmap stands in our configuration."""

SHIPPED = Path("/usr/libexec/aws-node")
"""Where the image holds the plug-ins."""

NODE_SYSCTLS = Path("/host/proc/sys")
"""Where the manifest mounts `net` of the node's /proc/sys: a container's own is read-only unless it
is privileged."""

CONFLIST_CNI_VERSION = "1.0.0"
"""containerd 1.6 and 1.7 refuse the results of 1.1.0."""

_READ_BY_RUNTIMES = {".conf", ".conflist", ".json"}
# libcni, ConfFiles: these endings and no other; our temporary name has none of them.

_HINTS = {
    errno.ENOENT: "mount the node's folder there, or name another in {variable}",
    errno.ENOTDIR: "it must be a folder: mount the node's folder there, or see {variable}",
    errno.EISDIR: "a folder is in the way: remove it on the node",
    errno.EACCES: "the container needs the capability DAC_OVERRIDE, or SELinux forbids it",
    errno.EPERM: "the file or its folder is immutable: see lsattr on the node",
    errno.EROFS: "mount it writable, or name a writable folder in {variable}",
    errno.ENOSPC: "free some space on the node",
    errno.EDQUOT: "raise the quota on the node",
}


class InstallError(Exception):
    """Something could not be put in place; one line that says what, why and what to do."""


# Files.


def install_plugin(source: Path, directory: Path, name: str) -> None:
    """Put an executable into the runtime's folder of plug-ins; raises InstallError.

    A process that still runs the old file keeps it: its name is given to a new one. Nothing
    else in the folder is touched.
    """
    try:
        content = source.read_bytes()
    except OSError as error:
        raise InstallError(f"{source}: {error.strerror}; the image is not whole") from error
    if not content:
        raise InstallError(f"{source}: empty; the image is not whole")
    _put(directory, name, content, 0o755, "HOST_CNI_BIN_PATH")


def install_conflist(directory: Path, text: str) -> None:
    """Write our network configuration where the runtime looks for it; raises InstallError.

    The temporary name lies in the same folder because containerd's watch ignores a file that is
    made there or moved in from elsewhere, and sees a rename within.
    """
    _put(directory, CONFLIST, text.encode(), 0o644, "HOST_CNI_CONFDIR_PATH")


def remove_conflist(directory: Path) -> None:
    """Take our network configuration away, so that the node says NotReady; raises InstallError."""
    try:
        for path in (directory / CONFLIST, _temporary(directory, CONFLIST)):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise _told(directory / CONFLIST, error, "HOST_CNI_CONFDIR_PATH") from error


def shadowing(directory: Path) -> tuple[str, ...]:
    """Name the configurations that a runtime takes before ours, in its order; InstallError.

    Runtimes read a folder in the order of names, and use the first.
    """
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise _told(directory, error, "HOST_CNI_CONFDIR_PATH") from error
    return tuple(
        name for name in names if name < CONFLIST and Path(name).suffix in _READ_BY_RUNTIMES
    )


def _put(directory: Path, name: str, content: bytes, mode: int, variable: str) -> None:
    """Write, sync, rename, sync: at no instant is there half a file under `name`."""
    target, temporary = directory / name, _temporary(directory, name)
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Two installers at once would write one temporary file. The kernel frees the lock of
            # one that is killed.
            fcntl.flock(folder, fcntl.LOCK_EX)
            temporary.unlink(missing_ok=True)
            try:
                _write(temporary, content, mode)
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _told(target, error, variable) from error


def _write(path: Path, content: bytes, mode: int) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.write(content)
        file.flush()
        # The umask does not rule a mode that is set on the open file.
        os.fchmod(opened, mode)
        os.fsync(opened)


def _temporary(directory: Path, name: str) -> Path:
    return directory / f".{name}.tmp"


def _told(path: Path, error: OSError, variable: str) -> InstallError:
    hint = _HINTS.get(error.errno or 0, "see {variable}").format(variable=variable)
    return InstallError(f"{path}: {error.strerror}; {hint}")


# The network configuration.


def conflist(other: Mapping[str, str]) -> str:
    """Render our network configuration from `Settings.other`, as JSON.

    The daemon has its settings from its own environment; those of them that upstream's plug-in
    reads here are told all the same, for people and for a node that changes back.
    CHECK is not disabled, as upstream's list has it: ours looks.
    """
    ours = {
        "type": PLUGIN,
        "vethPrefix": other["AWS_VPC_K8S_CNI_VETHPREFIX"],
        # A text, as upstream writes it.
        "mtu": other.get("POD_MTU") or other["AWS_VPC_ENI_MTU"],
        "pluginLogFile": other["AWS_VPC_K8S_PLUGIN_LOG_FILE"],
        "pluginLogLevel": other["AWS_VPC_K8S_PLUGIN_LOG_LEVEL"],
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    whole = {
        "cniVersion": CONFLIST_CNI_VERSION,
        "name": NETWORK,
        "disableCheck": False,
        "plugins": [ours, portmap],
    }
    return json.dumps(whole, indent=2) + "\n"


def sysctl_root(mounted: Path = NODE_SYSCTLS) -> Path:
    """Return the folder below which sysctls can be written: the mounted one, or else our own."""
    return mounted if mounted.is_dir() else Path("/proc/sys")


# The init container.


def main(
    environ: Mapping[str, str],
    argv: Sequence[str],
    shipped: Path = SHIPPED,
    links: Collection[str] | None = None,
) -> int:
    """Install the plug-ins; 0 when all are in place, 1 when not, 2 for wrong settings.

    Ours comes last: until then the node works as it did. Where pods of upstream live nothing is
    replaced, since the daemon would refuse the node. `links` are the node's, asked for None.
    """
    if argv:
        sys.stderr.write(f"install: unknown argument {argv[0]!r}; it takes none\n")
        return 2
    try:
        other = parse(environ, lenient=False).other
        _refuse_upstreams_pods(other, links)
        _install(Path(other["HOST_CNI_BIN_PATH"]), shipped)
    except SettingsError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"install: {line}\n")
        return 2
    except InstallError as error:
        sys.stderr.write(f"install: {error}\n")
        return 1
    return 0


def _refuse_upstreams_pods(other: Mapping[str, str], links: Collection[str] | None) -> None:
    if links is None:
        links = [name for _, name in socket.if_nameindex()]
    path = Path(other["AWS_VPC_K8S_CNI_BACKING_STORE"])
    if why := objection(path, links, other["AWS_VPC_K8S_CNI_VETHPREFIX"]):
        raise InstallError(why)


def _install(directory: Path, shipped: Path) -> None:
    for name in STOCK:
        # The node's own may be newer, and is linked with the node's own libraries.
        if not (directory / name).exists():
            install_plugin(shipped / name, directory, name)
            sys.stdout.write(f"install: {name} was missing and is now in {directory}\n")
    install_plugin(shipped / PLUGIN, directory, PLUGIN)
    sys.stdout.write(f"install: {PLUGIN} is in {directory}\n")
