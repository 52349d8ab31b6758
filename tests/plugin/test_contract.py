"""What both plug-ins must do, whatever the daemon, the runtime or the environment does."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni import wire
from cni.spec.result import version_json
from tests.plugin.fake_daemon import (
    ADD,
    CONF,
    PATIENCE_S,
    Asked,
    Client,
    FakeDaemon,
    answering,
    in_single_bytes,
    refusing_at_once,
    sending,
    silent_after,
)

DEL = {**ADD, b"CNI_COMMAND": b"DEL"}
TOMBSTONE = "c0ffee:eth0"
OK = answering(0, b"")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Give a state directory whose socket path is short enough, and look for left drafts."""
    yield tmp_path
    assert list(tmp_path.rglob(".*")) == []


def error_of(done: subprocess.CompletedProcess[bytes]) -> Mapping[str, object]:
    """Return the CNI error that a plug-in ended with."""
    assert done.returncode == 1
    assert done.stdout.endswith(b"\n")
    error: dict[str, object] = json.loads(done.stdout)
    assert set(error) == {"cniVersion", "code", "msg"}
    return error


def refused(directory: Path) -> None:
    """Leave a socket behind on which nobody listens, as a killed daemon does."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "cni.sock"))


# The daemon answers.


@pytest.mark.parametrize("code", [0, 1, 11, 255])
@pytest.mark.parametrize("output", [b"", b'{"ips":[]}\n', bytes(range(256))])
def test_exit_code_and_output_are_the_daemons(
    client: Client, state: Path, code: int, output: bytes
) -> None:
    """What the daemon says is printed to the byte, and its code is the exit code."""
    with FakeDaemon(state, answering(code, output)):
        done = client.run(state)

    assert (done.returncode, done.stdout) == (code, output)


def test_an_answer_may_come_byte_by_byte(client: Client, state: Path) -> None:
    """Where the answer is cut says nothing."""
    with FakeDaemon(state, in_single_bytes(wire.encode_reply(3, b"a few words"))):
        done = client.run(state)

    assert (done.returncode, done.stdout) == (3, b"a few words")


def test_the_largest_answer_arrives_whole(client: Client, state: Path) -> None:
    """A frame of 1 MiB is allowed, more than any socket takes at once."""
    output = os.urandom(wire.REPLY_BYTES_MAX - 1)

    with FakeDaemon(state, answering(0, output)):
        done = client.run(state)

    assert done.stdout == output


def test_all_cni_variables_and_nothing_else_are_sent(client: Client, state: Path) -> None:
    """The daemon sees what the runtime set, in its order, also names the spec does not know."""
    told = {
        **ADD,
        b"CNI_NEW": b"",
        b"cni_low": b"no",
        b"XCNI_Y": b"no",
        b"CNIX": b"no",
        b"AWS_SECRET": b"no",
    }

    with FakeDaemon(state, OK) as daemon:
        client.run(state, told)

    assert list(daemon.request.variables.items()) == [*ADD.items(), (b"CNI_NEW", b"")]
    assert daemon.request.stdin == CONF


@given(
    variables=st.dictionaries(
        st.binary(max_size=12).map(lambda name: b"CNI_" + name),
        st.binary(max_size=40),
        max_size=8,
    ).map(
        lambda found: {
            name.replace(b"=", b"").replace(b"\0", b""): value.replace(b"\0", b"")
            for name, value in found.items()
        }
    ),
    stdin=st.binary(max_size=200),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_frame_is_wires(
    client: Client, state: Path, variables: dict[bytes, bytes], stdin: bytes
) -> None:
    """The bytes on the socket are those of `wire.encode_request`, whatever they say."""
    # VERSION is never sent, and Hypothesis might think of it.
    variables.pop(b"CNI_COMMAND", None)

    with FakeDaemon(state, OK) as daemon:
        client.run(state, variables, stdin)

    assert daemon.request.frame == wire.encode_request(variables, stdin)


@pytest.mark.parametrize("missing", sorted(ADD))
def test_a_missing_variable_is_the_daemons_to_mind(
    client: Client, state: Path, missing: bytes
) -> None:
    """The pipe knows no CNI: what lacks is sent as lacking."""
    with FakeDaemon(state, answering(1, b"{}")) as daemon:
        done = client.run(state, {key: ADD[key] for key in ADD if key != missing})

    assert done.returncode == 1
    assert missing not in daemon.request.variables


# Calls execve(2) with an environment in which names come twice, which no mapping can say.
EXEC_TWICE = """
import ctypes, os, sys
words = [os.fsencode(word) for word in sys.argv[1:]]
names = [b"%s=%s" % item for item in os.environb.items()] + [b"CNI_IFNAME=eth1"]
arrays = [(ctypes.c_char_p * (len(part) + 1))(*part, None) for part in (words, names)]
ctypes.CDLL(None).execve(words[0], *arrays)
"""


def test_the_first_of_two_equal_names_counts(client: Client, state: Path) -> None:
    """As getenv(3) has it; execve lets a name come twice."""
    twice = Client((sys.executable, "-c", EXEC_TWICE, *client.argv))

    with FakeDaemon(state, OK) as daemon:
        done = twice.run(state)

    assert done.returncode == 0
    assert daemon.request.variables[b"CNI_IFNAME"] == b"eth0"


# The pod's network namespace.


def test_the_namespace_is_passed_open(client: Client, state: Path, tmp_path: Path) -> None:
    """The daemon gets a descriptor of what CNI_NETNS names, because it cannot see the path."""
    netns = tmp_path / "netns"
    netns.touch()
    seen = []

    def look(connection: socket.socket, asked: Asked) -> None:
        for descriptor in asked.descriptors:
            seen.append(os.fstat(descriptor).st_ino)
            os.close(descriptor)
        connection.sendall(wire.encode_reply(0, b""))

    with FakeDaemon(state, look):
        client.run(state, {**ADD, b"CNI_NETNS": bytes(netns)})

    assert seen == [netns.stat().st_ino]


@pytest.mark.parametrize("path", [b"", b"/nowhere/at/all", b"/dev/null/x"])
def test_a_namespace_that_cannot_be_opened_is_not_passed(
    client: Client, state: Path, path: bytes
) -> None:
    """The daemon is asked all the same; it knows whether the command needs one."""
    with FakeDaemon(state, OK) as daemon:
        done = client.run(state, {**DEL, b"CNI_NETNS": path})

    assert done.returncode == 0
    assert daemon.request.descriptors == []


def test_a_fifo_for_a_namespace_does_not_block(client: Client, state: Path, tmp_path: Path) -> None:
    """To open a path that somebody else chose must not wait for a writer."""
    os.mkfifo(tmp_path / "fifo")

    def close_and_answer(connection: socket.socket, asked: Asked) -> None:
        for descriptor in asked.descriptors:
            os.close(descriptor)
        connection.sendall(wire.encode_reply(0, b""))

    with FakeDaemon(state, close_and_answer):
        done = client.run(state, {**ADD, b"CNI_NETNS": bytes(tmp_path / "fifo")})

    assert done.returncode == 0


# Standard input and output.


def test_the_largest_request_arrives_whole(client: Client, state: Path) -> None:
    """A body of exactly 1 MiB passes; one byte more is refused before anybody is asked."""
    room = wire.REQUEST_BYTES_MAX - len(wire.encode_request(dict(ADD), b"")) + wire.HEADER_BYTES
    stdin = os.urandom(room)

    with FakeDaemon(state, OK) as daemon:
        done = client.run(state, ADD, stdin)
        more = client.run(state, ADD, stdin + b"!")

    assert done.returncode == 0
    assert daemon.request.stdin == stdin
    assert error_of(more)["code"] == 7


@pytest.mark.parametrize("command", [b"ADD", b"DEL"])
def test_standard_input_without_end_is_refused(client: Client, state: Path, command: bytes) -> None:
    """What is more than a frame holds is not read to its end."""
    with Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(  # noqa: S603, our own program
            client.argv,
            env=client.environment(state, {**ADD, b"CNI_COMMAND": command}),
            stdin=endless,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )

    assert error_of(done)["code"] == 7


def test_empty_standard_input_is_the_daemons_to_mind(client: Client, state: Path) -> None:
    """No configuration is sent as none."""
    with FakeDaemon(state, OK) as daemon:
        client.run(state, ADD, b"")

    assert daemon.request.stdin == b""


def test_standard_input_that_cannot_be_read_is_told(client: Client, state: Path) -> None:
    """It is error 5, with the kernel's word for it."""
    with (state / "write-only").open("wb") as deaf:
        done = subprocess.run(  # noqa: S603, our own program
            client.argv,
            env=client.environment(state, ADD),
            stdin=deaf,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )

    assert error_of(done)["code"] == 5


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_not_taken_by_the_socket(
    client: Client, state: Path, closed: str
) -> None:
    """A runtime that closes them gets the exit code, and the daemon the frame and no more."""
    shell = Client(("/bin/sh", "-c", f'exec "$@" {closed}', "sh", *client.argv))

    with FakeDaemon(state, answering(7, b"an answer")) as daemon:
        done = shell.run(state, ADD, b"")

    assert done.returncode == 7
    assert done.stdout == (b"" if ">" in closed else b"an answer")
    assert daemon.request.stdin == b""


def test_an_output_that_nobody_reads_is_a_failure(client: Client, state: Path) -> None:
    """A result that is lost must not look like success, nor end in a signal."""
    reader, writer = os.pipe()
    os.close(reader)

    with FakeDaemon(state, answering(0, b"a result")):
        done = subprocess.run(  # noqa: S603, our own program
            client.argv,
            env=client.environment(state, ADD),
            stdin=subprocess.DEVNULL,
            stdout=writer,
            timeout=PATIENCE_S,
            check=False,
        )
    os.close(writer)

    assert done.returncode == 1


def test_version_needs_no_daemon(client: Client, state: Path) -> None:
    """VERSION is answered before anything is installed, and as the daemon would."""
    done = client.run(state, {b"CNI_COMMAND": b"VERSION"}, b'{"cniVersion":"1.0.0"}')

    assert (done.returncode, done.stdout) == (0, version_json())


# The environment.


def test_too_many_variables_are_refused(client: Client, state: Path) -> None:
    """64 pass; one more is error 4 and nobody is asked."""
    names = {b"CNI_%d" % n: b"" for n in range(wire.VARIABLES_MAX)}

    with FakeDaemon(state, OK) as daemon:
        done = client.run(state, names)
        more = client.run(state, {**names, b"CNI_MORE": b""})

    assert done.returncode == 0
    assert len(daemon.request.variables) == wire.VARIABLES_MAX
    assert error_of(more)["code"] == 4


@pytest.mark.parametrize(
    "limit", [b"0", b"0.0", b"-1", b"x", b"1e3", b"3601", b"1.", b".5", b" 1", b"1.0000", b"\xff"]
)
def test_a_time_limit_that_is_none_is_refused(client: Client, state: Path, limit: bytes) -> None:
    """A mistyped limit is told at once, not taken for another."""
    error = error_of(client.run(state, limit=limit))

    assert error["code"] == 4
    assert "WARMBENCH_PLUGIN_TIMEOUT" in str(error["msg"])


@pytest.mark.parametrize("limit", [b"1", b"0007", b"3600", b"59.5", b"2.125"])
def test_a_time_limit_may_have_a_fraction(client: Client, state: Path, limit: bytes) -> None:
    """Seconds, to the millisecond, up to an hour."""
    with FakeDaemon(state, answering(0, b"{}")):
        done = client.run(state, limit=limit)

    assert done.stdout == b"{}"


def test_a_path_too_long_for_a_socket_is_told(client: Client, state: Path) -> None:
    """The kernel takes 107 bytes for a socket's path; DEL leaves no tombstone elsewhere."""
    deep = bytes(state) + b"/" + b"x" * 120

    error = error_of(client.run(deep, DEL))

    assert error["code"] == 4
    assert "WARMBENCH_STATE_DIR" in str(error["msg"])


@pytest.mark.parametrize("name", [b'quo"te', b"back\\slash", b"\xff\xfe", b"new\nline", b"%s%n"])
def test_an_error_is_json_whatever_the_path(client: Client, state: Path, name: bytes) -> None:
    """Bytes that a JSON string may not hold do not reach it."""
    error = error_of(client.run(bytes(state) + b"/" + name, ADD))

    assert error["code"] == 11


@pytest.mark.parametrize(
    ("config", "version"),
    [
        (b'{"cniVersion":"0.3.1"}', "0.3.1"),
        (b'{"name":"x", "cniVersion" :\n "0.4.0"}', "0.4.0"),
        (b'{"cniVersion": "1.0.0"}', "1.0.0"),
        (b'{"cniVersion": "1.1.0"}', "1.1.0"),
        (b'{"cniVersion": "9.9.9"}', "1.1.0"),
        (b'{"cniVersion', "1.1.0"),
        (b'{"cniVersion"', "1.1.0"),
        (b'{"cniVersion":"0.4.', "1.1.0"),
        (b"", "1.1.0"),
    ],
)
def test_an_error_of_the_pipe_is_in_the_configurations_version(
    client: Client, state: Path, config: bytes, version: str
) -> None:
    """The spec wants the version that was asked in."""
    assert error_of(client.run(state, ADD, config))["cniVersion"] == version


def test_a_version_cut_off_by_the_limit_is_none(client: Client, state: Path) -> None:
    """The search for it ends with what was read; sanitizers see whether it does."""
    cut = b'"cniVersion":"0.4.'
    filled = b" " * (wire.REQUEST_BYTES_MAX + 1 - len(cut)) + cut

    error = error_of(client.run(state, ADD, filled))

    assert (error["code"], error["cniVersion"]) == (7, "1.1.0")


# No daemon.


@pytest.mark.parametrize("command", [b"ADD", b"CHECK", b"STATUS", b"GC", b"", b"del"])
@pytest.mark.parametrize("stale", [False, True])
def test_without_a_daemon_a_command_is_to_be_tried_again(
    client: Client, state: Path, command: bytes, *, stale: bool
) -> None:
    """Error 11 names the socket and says what must run; nothing is left behind."""
    if stale:
        refused(state)

    error = error_of(client.run(state, {**ADD, b"CNI_COMMAND": command}))

    assert error["code"] == 11
    assert f"{state}/cni.sock"[:200] in str(error["msg"])
    assert not (state / "tombstones").exists()


@pytest.mark.parametrize("stale", [False, True])
def test_without_a_daemon_del_leaves_a_tombstone(
    client: Client, state: Path, *, stale: bool
) -> None:
    """DEL succeeds, and its request waits for the daemon where only root reads."""
    if stale:
        refused(state)

    done = client.run(state, DEL)

    assert (done.returncode, done.stdout) == (0, b"")
    (tombstone,) = (state / "tombstones").iterdir()
    assert tombstone.name == TOMBSTONE
    assert wire.decode_request(tombstone.read_bytes()) == (DEL, CONF)
    assert tombstone.stat().st_mode & 0o7777 == 0o600
    assert tombstone.parent.stat().st_mode & 0o7777 == 0o700


def test_the_state_directory_is_made_where_it_lacks(client: Client, state: Path) -> None:
    """After a reboot /var/run is empty, and a DEL may come before the daemon."""
    done = client.run(state / "aws-node", DEL)

    assert done.returncode == 0
    assert (state / "aws-node" / "tombstones" / TOMBSTONE).is_file()
    assert (state / "aws-node").stat().st_mode & 0o7777 == 0o700


def test_a_second_del_replaces_the_first_ones_tombstone(client: Client, state: Path) -> None:
    """The second of the two DELs that containerd sends adds nothing; one tombstone is enough."""
    client.run(state, DEL)
    done = client.run(state, {**DEL, b"CNI_NETNS": b"/later"}, b"{}")

    assert done.returncode == 0
    (tombstone,) = (state / "tombstones").iterdir()
    assert wire.decode_request(tombstone.read_bytes())[1] == b"{}"


def test_the_largest_request_fits_a_tombstone(client: Client, state: Path) -> None:
    """What fits a frame fits a tombstone."""
    client.run(state, DEL, b"x" * 1_000_000)

    body = (state / "tombstones" / TOMBSTONE).read_bytes()
    assert wire.decode_request(body)[1] == b"x" * 1_000_000


def test_each_sandbox_has_a_tombstone_of_its_own(client: Client, state: Path) -> None:
    """Container and interface are told apart in the name as in the request."""
    client.run(state, {**DEL, b"CNI_CONTAINERID": b"a.b", b"CNI_IFNAME": b"c"})
    client.run(state, {**DEL, b"CNI_CONTAINERID": b"a", b"CNI_IFNAME": b"b.c"})
    client.run(state, {**DEL, b"CNI_CONTAINERID": b"Z" * 200, b"CNI_IFNAME": b"i" * 15})

    names = sorted(path.name for path in (state / "tombstones").iterdir())
    assert names == ["Z" * 200 + ":" + "i" * 15, "a.b:c", "a:b.c"]


@pytest.mark.parametrize(
    "amiss",
    [
        {b"CNI_CONTAINERID": b""},
        {b"CNI_CONTAINERID": b"../../etc/passwd"},
        {b"CNI_CONTAINERID": b".hidden"},
        {b"CNI_CONTAINERID": b"-x"},
        {b"CNI_CONTAINERID": b"a" * 201},
        {b"CNI_CONTAINERID": b"a:b"},
        {b"CNI_CONTAINERID": b"\xff"},
        {b"CNI_IFNAME": b""},
        {b"CNI_IFNAME": b"."},
        {b"CNI_IFNAME": b".."},
        {b"CNI_IFNAME": b"a/b"},
        {b"CNI_IFNAME": b"a b"},
        {b"CNI_IFNAME": b"a:b"},
        {b"CNI_IFNAME": b"i" * 16},
    ],
)
def test_a_del_that_names_no_sandbox_leaves_no_tombstone(
    client: Client, state: Path, amiss: Mapping[bytes, bytes]
) -> None:
    """What becomes a file's name is checked first."""
    error = error_of(client.run(state, {**DEL, **amiss}))

    assert error["code"] == 4
    assert not (state / "tombstones").exists()


def test_a_tombstone_is_not_written_through_a_symbolic_link(client: Client, state: Path) -> None:
    """Whoever could put a link there must not choose where root writes."""
    (state / "elsewhere").mkdir(mode=0o700)
    (state / "tombstones").symlink_to(state / "elsewhere")

    error = error_of(client.run(state, DEL))

    assert error["code"] == 11
    assert "tombstones" in str(error["msg"])
    assert list((state / "elsewhere").iterdir()) == []


def test_a_link_in_place_of_a_tombstone_is_replaced(client: Client, state: Path) -> None:
    """A rename puts the file where the link was and leaves what it named alone."""
    (state / "tombstones").mkdir(mode=0o700)
    (state / "precious").write_text("kept")
    (state / "tombstones" / TOMBSTONE).symlink_to(state / "precious")

    assert client.run(state, DEL).returncode == 0
    assert (state / "precious").read_text() == "kept"
    assert not (state / "tombstones" / TOMBSTONE).is_symlink()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o720, 0o702])
def test_a_folder_that_others_write_is_not_trusted(client: Client, state: Path, mode: int) -> None:
    """A tombstone ends a pod's network: who may write one must be root."""
    (state / "tombstones").mkdir()
    (state / "tombstones").chmod(mode)

    error = error_of(client.run(state, DEL))

    assert error["code"] == 11
    assert "others may write there" in str(error["msg"])
    assert list((state / "tombstones").iterdir()) == []


def test_a_tombstone_that_cannot_be_written_fails_the_del(client: Client, state: Path) -> None:
    """The runtime tries again, because nothing remembers the DEL; no draft stays."""
    (state / "tombstones" / TOMBSTONE / "occupied").mkdir(parents=True)
    (state / "tombstones").chmod(0o700)

    assert error_of(client.run(state, DEL))["code"] == 11


def test_a_tombstone_cut_short_is_removed(client: Client, state: Path) -> None:
    """Where the file may not grow, as on a full disk, the DEL fails and no part of it stays."""
    limited = Client(("/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *client.argv))

    error = error_of(limited.run(state, DEL))

    assert error["code"] == 11
    assert "File too large" in str(error["msg"])
    assert list((state / "tombstones").iterdir()) == []


def test_a_file_where_the_folder_should_be_fails_the_del(client: Client, state: Path) -> None:
    """The error names the path and the kernel's word."""
    (state / "tombstones").write_text("")

    error = error_of(client.run(state, DEL))

    assert error["code"] == 11
    assert "Not a directory" in str(error["msg"])


# A daemon that misbehaves: error 11 for all, and no tombstone, because it may still act.

HEADER = wire.encode_reply(0, b"xyz")[: wire.HEADER_BYTES]


BAD_ANSWERS = {
    "nothing": (b"", "closed"),
    "one byte": (b"C", "closed"),
    "header": (HEADER, "closed"),
    "cut": (wire.encode_reply(0, b"xyz")[:-1], "closed"),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "frame version"),
    "request": (wire.encode_request({}, b""), "frame version"),
    "version": (HEADER[:7] + b"\2" + HEADER[8:] + b"\0xyz", "frame version"),
    "empty": (HEADER[:8] + bytes(4), "length"),
    "huge": (HEADER[:8] + b"\xff\xff\xff\xff" + bytes(100_000), "length"),
    "over": (HEADER[:8] + (wire.REPLY_BYTES_MAX + 1).to_bytes(4, "big"), "length"),
}


@pytest.mark.parametrize("variables", [ADD, DEL], ids=["ADD", "DEL"])
@pytest.mark.parametrize("answer", sorted(BAD_ANSWERS))
def test_an_answer_that_is_none_is_to_be_tried_again(
    client: Client, state: Path, answer: str, variables: Mapping[bytes, bytes]
) -> None:
    """A daemon that dies or talks nonsense ends the command, and nothing of it is printed."""
    sent, word = BAD_ANSWERS[answer]

    with FakeDaemon(state, sending(sent)):
        error = error_of(client.run(state, variables))

    assert error["code"] == 11
    assert word in str(error["msg"])
    assert not (state / "tombstones").exists()


def test_what_follows_an_answer_is_not_printed(client: Client, state: Path) -> None:
    """The header says where the answer ends."""
    with FakeDaemon(state, sending(wire.encode_reply(0, b"{}") + b"more")):
        done = client.run(state)

    assert (done.returncode, done.stdout) == (0, b"{}")


@pytest.mark.parametrize("variables", [ADD, DEL], ids=["ADD", "DEL"])
@pytest.mark.parametrize("said", [b"", HEADER[:5], HEADER, HEADER + b"\0x"])
def test_a_silent_daemon_is_given_up(
    client: Client, state: Path, said: bytes, variables: Mapping[bytes, bytes]
) -> None:
    """After the time limit the command ends, however much of the answer had come."""
    with FakeDaemon(state, silent_after(said)):
        done = client.run(state, variables, limit=b"0.1")

    error = error_of(done)
    assert error["code"] == 11
    assert "within 0.1 s" in str(error["msg"])
    assert not (state / "tombstones").exists()


def test_a_backlog_that_stays_full_is_given_up(client: Client, state: Path) -> None:
    """A daemon that never accepts is silent too: a DEL must not bury what it may still do."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(state / "cni.sock"))
        listener.listen(0)
        first.connect(str(state / "cni.sock"))
        done = client.run(state, DEL, limit=b"0.1")

    assert error_of(done)["code"] == 11
    assert not (state / "tombstones").exists()


def test_a_full_backlog_is_waited_for(client: Client, state: Path) -> None:
    """Many pods at once are served one after the other, and none is turned away."""
    release = threading.Event()

    def slowly(connection: socket.socket, _: Asked) -> None:
        assert release.wait(PATIENCE_S)
        connection.sendall(wire.encode_reply(0, b"served"))

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603, our own program
            client.argv,
            env=client.environment(state, ADD),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )

    with FakeDaemon(state, slowly, connections=6):
        processes = [started() for _ in range(6)]
        release.set()
        outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]

    assert outputs == [b"served"] * 6


def test_a_refusal_before_the_request_is_read_arrives(client: Client, state: Path) -> None:
    """What a daemon says before it hangs up on a long request is its answer."""
    with FakeDaemon(state, refusing_at_once):
        done = client.run(state, ADD, b"x" * 1_000_000)

    assert (done.returncode, done.stdout) == (1, b"not you\n")


# Signals.


def wait_until_asleep(pid: int) -> None:
    """Return once a process waits in the kernel, which is for an answer once it has asked."""
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline, "the plug-in does not wait"


def test_a_stopped_and_continued_plugin_goes_on_waiting(client: Client, state: Path) -> None:
    """Calls with a time limit end in EINTR after SIGCONT (signal(7)), which is no answer."""
    asked, go = threading.Event(), threading.Event()

    def when_told(connection: socket.socket, _: Asked) -> None:
        asked.set()
        assert go.wait(PATIENCE_S)
        connection.sendall(wire.encode_reply(0, b"at last"))

    with FakeDaemon(state, when_told), client.started(state) as process:
        assert asked.wait(PATIENCE_S)
        wait_until_asleep(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(process.pid, signal.SIGCONT)
        _, status = os.waitpid(process.pid, os.WCONTINUED)
        assert os.WIFCONTINUED(status)
        go.set()
        output, _ = process.communicate(timeout=PATIENCE_S)

    assert output == b"at last"


@pytest.mark.parametrize("variables", [ADD, DEL], ids=["ADD", "DEL"])
def test_sigterm_ends_a_waiting_plugin(
    client: Client, state: Path, variables: Mapping[bytes, bytes]
) -> None:
    """It ends at once and says nothing; the daemon sees the caller hang up."""
    asked, hung_up = threading.Event(), threading.Event()

    def wait_for_the_end(connection: socket.socket, _: Asked) -> None:
        asked.set()
        assert connection.recv(1) == b""
        hung_up.set()

    with FakeDaemon(state, wait_for_the_end), client.started(state, variables) as process:
        assert asked.wait(PATIENCE_S)
        process.terminate()
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert hung_up.wait(PATIENCE_S)

    assert (process.returncode, output) == (-signal.SIGTERM, b"")
    assert not (state / "tombstones").exists()
