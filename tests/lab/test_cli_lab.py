"""`warmbench lab` as a user meets it: real processes, interrupts, crashes, and nothing left."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sim.lab.background import BackgroundLab
from sim.lab.namespace import names_beginning
from sim.lab.plan import LabPlan

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"}
DEADLINE_S = 30.0
pytestmark = pytest.mark.root


class Command:
    """`warmbench lab` for one lab."""

    def __init__(self, plan: LabPlan) -> None:
        self._where = ("--name", plan.name, "--run-dir", str(plan.run_dir))
        daemon = ("--daemon", shlex.join(plan.daemon), "--plugin-path", plan.plugin)
        self.up = ("up", *self._where, "--latency", "0", "--nodes", "1", *daemon)

    def words(self, *words: str) -> list[str]:
        """Return a whole command line; names of the lab follow the command's own name."""
        length = 2 if words[0] == "pod" else 1
        where = () if words[0] == "up" else self._where
        return [sys.executable, "-m", "sim.cli", "lab", *words[:length], *where, *words[length:]]

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; it must end with that exit code."""
        done = subprocess.run(  # noqa: S603 - our own interpreter
            self.words(*words),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command and do not wait for it."""
        return subprocess.Popen(  # noqa: S603 - as above
            self.words(*words),
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def lab(plan: LabPlan) -> Iterator[Command]:
    """Return the commands of a lab that is down, before and after."""
    yield Command(plan)
    BackgroundLab(plan.name, plan.run_dir).down()


def wait_until(true: Callable[[], bool]) -> None:
    """Poll a condition of other processes; fail where it never holds."""
    until = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_lab_from_up_to_down(lab: Command, plan: LabPlan) -> None:
    """Up says what to try, what it says works, and down twice leaves nothing."""
    assert "warmbench lab pod add web-1" in lab(*lab.up).stdout
    assert "10.0.0.77" in lab("pod", "add", "web-1").stdout
    assert "UP" in lab("exec", "web-1", "--", "ip", "link", "show", "lo").stdout
    told = lab("exec", "web-1", "--", "printf", "%s", "--name", "-h")
    assert told.stdout == "--name-h"
    assert "eth0" in lab("exec", "node-1", "ip", "-br", "link").stdout
    lab("exec", "internet", "--", "sh", "-c", "exit 3", code=3)

    table = lab("status").stdout
    assert "web-1" in table
    assert "10.0.0.77" in table
    told = json.loads(lab("status", "--json").stdout)
    (node,) = told["nodes"]
    assert [pod["name"] for pod in node["pods"]] == ["web-1"]
    assert json.loads(lab("pod", "add", "web-2", "--json").stdout)["cniVersion"] == "1.0.0"

    assert "gone" in lab("pod", "del", "web-1", "web-2").stdout
    assert "is gone" in lab("down").stdout
    assert "there is no lab" in lab("down").stdout
    assert not plan.directory.exists()


def test_what_cannot_be_is_refused_in_one_line(lab: Command) -> None:
    """Bad input ends with 2 and one line; a refusal by the plug-in with 1 and its reason."""
    for words, said in (
        (("status",), "no lab called"),
        (("pod", "add", "web-1"), "no lab called"),
        ((*lab.up, "--set", "WARM_IP_TARGTE=1"), "WARM_IP_TARGET"),
        ((*lab.up, "--instance", "m5.huge"), "m5.huge"),
        ((*lab.up, "--subnet", "10.9.0.0/20"), "not within"),
        ((*lab.up, "--vpc-cidr", "192.0.0.0/16", "--subnet", "192.0.0.0/20"), "overlaps"),
    ):
        assert said in lab(*words, code=2).stderr, words
    lab(*lab.up)
    for words, code, said in (
        (lab.up, 2, "end it with `warmbench lab down`"),
        (("pod", "add", "web-1", "--node", "node-7"), 2, "no node 'node-7'"),
        (("pod", "add", "Web"), 2, "a name is"),
        (("pod", "del", "web-9"), 2, "no pod 'web-9'"),
        (("exec", "web-9", "true"), 2, "no pod or node"),
        (("pod", "add", "refused"), 1, "CNI error 11: no address (pool_empty)"),
    ):
        stderr = lab(*words, code=code).stderr
        assert said in stderr, words
        assert len(stderr.splitlines()) == 1, stderr


def test_a_daemon_that_does_not_come_up_ends_the_command(lab: Command, plan: LabPlan) -> None:
    """What the daemon said is shown, the exit code is 1, and nothing is left."""
    dying = shlex.join((*plan.daemon, "dies"))
    done = lab(*lab.up, "--daemon", dying, code=1)
    assert "no allocator today" in done.stderr
    assert names_beginning(plan.prefix) == ()
    assert not plan.directory.exists()


@pytest.mark.parametrize("stage", ["vpc", "node-1", "daemon"])
def test_ctrl_c_while_coming_up_leaves_nothing(lab: Command, plan: LabPlan, stage: str) -> None:
    """Wherever the interrupt falls, the command ends with 130 and everything is gone."""
    hanging = shlex.join((*plan.daemon, "hangs"))
    command = lab.start(*lab.up, "--daemon", hanging)
    log = plan.directory / "node-1" / "daemon.log"
    reached = {
        "vpc": lambda: names_beginning(f"{plan.prefix}vpc") != (),
        "node-1": lambda: names_beginning(f"{plan.prefix}node-1") != (),
        "daemon": lambda: log.exists() and log.stat().st_size > 0,
    }[stage]
    wait_until(reached)
    command.send_signal(signal.SIGINT)
    said, _ = command.communicate(timeout=DEADLINE_S)
    assert command.returncode == 130, said
    assert names_beginning(plan.prefix) == ()
    assert not plan.directory.exists()


def test_down_cleans_up_after_a_killed_command(lab: Command, plan: LabPlan) -> None:
    """SIGKILL of `up` leaves a server that still starts; `down` ends it whole."""
    command = lab.start(*lab.up)
    wait_until(lambda: names_beginning(plan.prefix) != ())
    command.kill()
    command.communicate()
    assert "is gone" in lab("down").stdout


def test_down_cleans_up_after_a_killed_server(lab: Command, plan: LabPlan) -> None:
    """SIGKILL of the server leaves daemons, namespaces and pods; `down` ends them all."""
    lab(*lab.up)
    lab("pod", "add", "web-1")
    pid = BackgroundLab(plan.name, plan.run_dir).server_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: BackgroundLab(plan.name, plan.run_dir).server_pid is None)
    assert "does not answer" in lab("status", code=1).stderr
    lab("down")


def test_down_works_without_the_files(lab: Command, plan: LabPlan) -> None:
    """Namespaces and processes are found by name where somebody has removed the run folder."""
    lab(*lab.up)
    for path in sorted(plan.directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert "is gone" in lab("down").stdout


def test_a_killed_daemon_comes_back(lab: Command) -> None:
    """The server does what the kubelet does; the status counts the starts."""
    lab(*lab.up)

    def node() -> dict[str, object]:
        (told,) = json.loads(lab("status", "--json").stdout)["nodes"]
        return dict(told)

    first = node()["daemon_pid"]
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: node()["daemon_pid"] not in (None, first))
    assert node()["daemon_starts"] == 2


def test_down_ends_what_a_user_runs_in_the_lab(lab: Command, plan: LabPlan) -> None:
    """A process left in a pod's network would keep it alive without a name."""
    lab(*lab.up)
    lab("pod", "add", "web-1")
    busy = lab.start("exec", "web-1", "--", "sleep", "600")
    inode = Path(f"/run/netns/{plan.prefix}pod-web-1").stat().st_ino
    wait_until(lambda: Path(f"/proc/{busy.pid}/ns/net").stat().st_ino == inode)
    lab("down")
    assert busy.wait(DEADLINE_S) != 0
    busy.communicate()
