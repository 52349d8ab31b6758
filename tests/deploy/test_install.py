"""What the init container and the daemon put on a node: whole, or not at all."""

import ctypes
import errno
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni.daemon.install import (
    CONFLIST,
    PLUGIN,
    STOCK,
    InstallError,
    install_conflist,
    install_plugin,
    main,
    remove_conflist,
    shadowing,
    sysctl_root,
)
from cni.network.desired import host_link_name
from tests.daemon.test_takeover import checkpoint

ROOT = Path(__file__).parents[2]
OLD, NEW = b"old plug-in\n" * 50_000, b"new plug-in\n" * 70_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Make a folder of plug-ins as a node has it: ours of yesterday, and a stock one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bridge").write_bytes(b"stock")
    (folder / PLUGIN).write_bytes(OLD)
    (folder / PLUGIN).chmod(0o755)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make the plug-in of the image, not executable, to see that this does not matter."""
    path = tmp_path / "shipped"
    path.write_bytes(NEW)
    path.chmod(0o600)
    return path


def names(directory: Path) -> set[str]:
    """Name all that lies in a folder."""
    return {path.name for path in directory.iterdir()}


def mode_of(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


# Plug-ins.


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_plugin_is_installed_executable(directory: Path, source: Path, umask: int) -> None:
    """The new file has the name, the content and mode 0755, whatever the umask; stock ones stay."""
    before = os.umask(umask)
    try:
        install_plugin(source, directory, PLUGIN)
    finally:
        os.umask(before)

    assert (directory / PLUGIN).read_bytes() == NEW
    assert mode_of(directory / PLUGIN) == 0o755
    assert (directory / "bridge").read_bytes() == b"stock"
    assert names(directory) == {PLUGIN, "bridge"}


def test_a_plugin_that_runs_is_replaced_and_runs_on(directory: Path, source: Path) -> None:
    """Writing into a running executable is refused by the kernel; a new name is not."""
    running = directory / PLUGIN
    shutil.copy(shutil.which("cat") or "/bin/cat", running)
    with subprocess.Popen([running], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603
        install_plugin(source, directory, PLUGIN)

        said, _ = process.communicate(b"still here")

    assert said == b"still here"
    assert process.returncode == 0
    assert running.read_bytes() == NEW


def test_a_link_in_the_way_is_replaced_not_followed(
    directory: Path, source: Path, tmp_path: Path
) -> None:
    """What a link points to is somebody else's, and so is a link under our temporary name."""
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    for name in (PLUGIN, f".{PLUGIN}.tmp"):
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(other)

    install_plugin(source, directory, PLUGIN)

    assert other.read_bytes() == b"precious"
    assert not (directory / PLUGIN).is_symlink()
    assert (directory / PLUGIN).read_bytes() == NEW


FAILING: tuple[tuple[str, int, str], ...] = (
    ("open", errno.EACCES, "DAC_OVERRIDE"),
    ("fsync", errno.ENOSPC, "free some space"),
    ("fchmod", errno.EROFS, "HOST_CNI_BIN_PATH"),
    ("replace", errno.EISDIR, "a folder is in the way"),
    ("replace", errno.EIO, "HOST_CNI_BIN_PATH"),
)


@pytest.mark.parametrize("failing", FAILING)
def test_a_failing_step_leaves_the_old_plugin_and_no_litter(
    directory: Path, source: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[str, int, str]
) -> None:
    """Each step may fail: the error is one line with a way out, the node is as it was."""
    call, number, hint = failing

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(Path if call == "replace" else os, call, fail)
        with pytest.raises(InstallError) as caught:
            install_plugin(source, directory, PLUGIN)

    assert str(directory / PLUGIN) in str(caught.value)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (directory / PLUGIN).read_bytes() == OLD
    assert names(directory) == {PLUGIN, "bridge"}


def test_what_cannot_be_installed_is_told_in_one_line(directory: Path, tmp_path: Path) -> None:
    """A source that is missing or empty, and a folder that is none: each says what to do."""
    empty = tmp_path / "empty"
    empty.write_bytes(b"")

    with pytest.raises(InstallError, match="image is not whole"):
        install_plugin(tmp_path / "nothing", directory, PLUGIN)
    with pytest.raises(InstallError, match="empty"):
        install_plugin(empty, directory, PLUGIN)
    with pytest.raises(InstallError, match="must be a folder"):
        install_conflist(empty, "{}")
    with pytest.raises(InstallError, match="HOST_CNI_CONFDIR_PATH"):
        install_conflist(tmp_path / "nothing", "{}")
    assert (directory / PLUGIN).read_bytes() == OLD


# Crashes, and who reads meanwhile.

KILLED_AT_EACH_STEP = """
import os, sys
from pathlib import Path
from cni.daemon.install import install_plugin

source, directory, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
old, new = (directory / name).read_bytes(), source.read_bytes()

def killed_at(step):
    calls = 0
    def count(frame, event, argument):
        nonlocal calls
        calls += event == "c_call"
        if calls == step:
            os._exit(137)
    child = os.fork()
    if child == 0:
        sys.setprofile(count)
        install_plugin(source, directory, name)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137

step, seen = 1, []
while killed_at(step):
    found = (directory / name).read_bytes()
    assert found in (old, new), (step, len(found))
    assert (directory / name).stat().st_mode & 0o777 == 0o755, step
    seen.append(found == new)
    # The next installation is not hindered by what the dead one left.
    install_plugin(source, directory, name)
    assert {p.name for p in directory.iterdir()} == {name, "bridge"}, step
    (directory / name).write_bytes(old)
    step += 1
print(len(seen), seen.index(True))
"""


def test_killed_between_any_two_steps_the_plugin_is_whole(directory: Path, source: Path) -> None:
    """Killed before each of its calls in turn: old or new, executable, and no litter after."""
    done = subprocess.run(  # noqa: S603, our own interpreter
        [sys.executable, "-c", KILLED_AT_EACH_STEP, source, directory, PLUGIN],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    steps, first_new = map(int, done.stdout.split())
    # Several kills before the rename, at least one after it: both halves were met.
    assert 10 < first_new < steps


def test_readers_never_see_half_a_file(directory: Path, tmp_path: Path) -> None:
    """Two installers and two readers at once: every read is one of the two contents, whole."""
    sources = []
    for content in (OLD, NEW):
        sources.append(tmp_path / str(len(content)))
        sources[-1].write_bytes(content)
    halves: list[int] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            content = (directory / PLUGIN).read_bytes()
            if content not in (OLD, NEW):
                halves.append(len(content))

    def write(path: Path) -> None:
        for _ in range(20):
            install_plugin(path, directory, PLUGIN)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(path,)) for path in sources]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    for thread in readers:
        thread.join()

    assert halves == []
    assert names(directory) == {PLUGIN, "bridge"}


# The network configuration.

MODIFIED, MOVED_FROM, MOVED_TO, CREATED = 0x2, 0x40, 0x80, 0x100  # linux/inotify.h


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], list[tuple[int, str]]]]]:
    """Watch a folder as containerd does; the function tells the events so far."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    folder = tmp_path / "net.d"
    folder.mkdir()
    libc.inotify_add_watch(watch, bytes(folder), MODIFIED | MOVED_FROM | MOVED_TO | CREATED)

    def events() -> list[tuple[int, str]]:
        data, found = os.read(watch, 65536), []
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            found.append((mask, data[16 : 16 + length].rstrip(b"\0").decode()))
            data = data[16 + length :]
        return found

    yield folder, events
    os.close(watch)


def test_the_configuration_appears_by_a_rename_within_its_folder(
    watched: tuple[Path, Callable[[], list[tuple[int, str]]]],
) -> None:
    """The last events are a move out of and into the folder: containerd ignores a creation.

    Under the temporary name, which is written piece by piece, no runtime reads it.
    """
    folder, events = watched

    install_conflist(folder, "{}")

    happened = events()
    temporary = f".{CONFLIST}.tmp"
    assert happened[-2:] == [(MOVED_FROM, temporary), (MOVED_TO, CONFLIST)]
    assert {name for mask, name in happened[:-1]} == {temporary}
    assert Path(temporary).suffix not in {".conf", ".conflist", ".json"}
    assert (folder / CONFLIST).read_text() == "{}"
    assert mode_of(folder / CONFLIST) == 0o644


def test_the_configuration_goes_with_its_remains(tmp_path: Path) -> None:
    """Removal takes the file and what a killed writer left, spares others, and may come twice."""
    (tmp_path / f".{CONFLIST}.tmp").write_text("{")
    (tmp_path / "99-loopback.conf").write_text("{}")
    install_conflist(tmp_path, "{}")

    for _ in range(2):
        remove_conflist(tmp_path)

    assert names(tmp_path) == {"99-loopback.conf"}


def test_configurations_before_ours_are_named(tmp_path: Path) -> None:
    """A file that sorts before ours, and that a runtime reads, puts ours out of force."""
    for name in ("05-other.conf", "10-aaa.json", CONFLIST, "99-x.conf", "00-README", "01.bak"):
        (tmp_path / name).touch()

    assert shadowing(tmp_path) == ("05-other.conf", "10-aaa.json")
    with pytest.raises(InstallError, match="HOST_CNI_CONFDIR_PATH"):
        shadowing(tmp_path / "nothing")


# Sysctls.


def test_sysctls_are_written_where_the_manifest_mounts_them(tmp_path: Path) -> None:
    """In the container below the mount; a daemon that runs on the node itself below /proc/sys."""
    assert sysctl_root(tmp_path) == tmp_path
    assert sysctl_root(tmp_path / "nothing") == Path("/proc/sys")


# The init container.


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Make the image's folder of plug-ins."""
    folder = tmp_path / "image"
    folder.mkdir()
    for name in (PLUGIN, *STOCK):
        (folder / name).write_bytes(f"shipped {name}".encode())
    return folder


def test_the_init_container_installs_everything(
    shipped: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours is replaced, missing stock plug-ins come, the node's own stay."""
    (directory / "portmap").write_bytes(b"the node's own")

    code = main({"HOST_CNI_BIN_PATH": str(directory), "HOME": "/root"}, [], shipped)

    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    assert said.out.count("\n") == 2
    assert names(directory) == {PLUGIN, "bridge", *STOCK}
    assert (directory / PLUGIN).read_bytes() == b"shipped aws-cni"
    assert (directory / "loopback").read_bytes() == b"shipped loopback"
    assert (directory / "portmap").read_bytes() == b"the node's own"


@pytest.mark.parametrize(
    ("environ", "code", "said"),
    [
        ({"WARM_IP_TARGET": "-1"}, 2, "WARM_IP_TARGET='-1'"),
        ({"HOST_CNI_BIN_PATH": "/nowhere/bin"}, 1, "/nowhere/bin/loopback: No such file"),
        (None, 2, "unknown argument 'now'"),
    ],
)
def test_the_init_container_fails_in_one_line(
    shipped: Path,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str] | None,
    code: int,
    said: str,
) -> None:
    """A setting, a folder or an argument that is wrong: exit code, one line, no traceback."""
    assert main(environ or {}, ["now"] if environ is None else [], shipped) == code

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("install: ")
    assert said in line


def test_a_node_keeps_its_plugin_until_all_else_went_well(shipped: Path, directory: Path) -> None:
    """Ours is replaced last."""
    (shipped / STOCK[-1]).unlink()

    assert main({"HOST_CNI_BIN_PATH": str(directory)}, [], shipped) == 1
    assert (directory / PLUGIN).read_bytes() == OLD


def test_upstreams_plugin_stays_where_its_pods_live(
    shipped: Path, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon would refuse the node, and nobody could take those pods down any more."""
    store = tmp_path / "ipam.json"
    store.write_text(checkpoint("web"), encoding="utf-8")
    links = [host_link_name("eni", "default", "web")]
    environ = {"HOST_CNI_BIN_PATH": str(directory), "AWS_VPC_K8S_CNI_BACKING_STORE": str(store)}

    assert main(environ, [], shipped, links) == 1
    assert "1 pods of amazon-vpc-cni-k8s live here" in capsys.readouterr().err
    assert (directory / PLUGIN).read_bytes() == OLD
    assert main(environ, [], shipped, ["lo", "eth0"]) == 0
