"""A daemon of one connection, played by a thread, and how to run a plug-in against it."""

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from cni import wire

ADD: Mapping[bytes, bytes] = {
    b"CNI_COMMAND": b"ADD",
    b"CNI_CONTAINERID": b"c0ffee",
    b"CNI_IFNAME": b"eth0",
    b"CNI_NETNS": b"",
    b"CNI_ARGS": b"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
    b"CNI_PATH": b"/opt/cni/bin",
}
CONF = b'{"cniVersion":"1.0.0","name":"aws-cni","type":"aws-cni"}'
PATIENCE_S = 60.0
"""When a test gives up on a process that hangs; nothing waits so long when all is well."""


@dataclass
class Asked:
    """What a daemon was sent."""

    frame: bytes
    variables: dict[bytes, bytes]
    stdin: bytes
    descriptors: list[int]


Behaviour = Callable[[socket.socket, Asked], None]


@dataclass
class FakeDaemon:
    """Listens in a state directory; reads each request whole, then behaves as it is told."""

    directory: Path
    behave: Behaviour
    connections: int = 1
    asked: list[Asked] = field(default_factory=list)
    troubles: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.directory / "cni.sock"))
        self.listener.listen(0)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Wakes the thread where nobody called; closing alone would not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE_S)
        self.listener.close()
        (self.directory / "cni.sock").unlink()
        if self.troubles and error is None:
            raise self.troubles[0]

    @property
    def request(self) -> Asked:
        """The one request that came."""
        (asked,) = self.asked
        return asked

    def _serve(self) -> None:
        for _ in range(self.connections):
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(PATIENCE_S)
                try:
                    self._answer(connection)
                except BaseException as trouble:  # noqa: BLE001, raised in the test's thread
                    self.troubles.append(trouble)

    def _answer(self, connection: socket.socket) -> None:
        if self.behave is refusing_at_once:
            refusing_at_once(connection, Asked(b"", {}, b"", []))
            return
        frame, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
        while len(frame) < wire.HEADER_BYTES:
            frame += connection.recv(65536)
        size = wire.HEADER_BYTES + wire.request_length(frame[: wire.HEADER_BYTES])
        while len(frame) < size:
            frame += connection.recv(65536)
        variables, stdin = wire.decode_request(frame[wire.HEADER_BYTES :])
        asked = Asked(frame, variables, stdin, descriptors)
        self.asked.append(asked)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.behave(connection, asked)


def answering(code: int, stdout: bytes) -> Behaviour:
    """Answer as a daemon does."""
    return sending(wire.encode_reply(code, stdout))


def sending(frame: bytes) -> Behaviour:
    """Send these bytes, whatever they are, and close."""
    return lambda connection, _: connection.sendall(frame)


def in_single_bytes(frame: bytes) -> Behaviour:
    """Send these bytes one by one."""

    def behave(connection: socket.socket, _: Asked) -> None:
        for n in range(len(frame)):
            connection.sendall(frame[n : n + 1])

    return behave


def silent_after(frame: bytes) -> Behaviour:
    """Send these bytes, then nothing until the caller hangs up."""

    def behave(connection: socket.socket, _: Asked) -> None:
        connection.sendall(frame)
        assert connection.recv(1) == b""

    return behave


def refusing_at_once(connection: socket.socket, _: Asked) -> None:
    """Answer before anything is read, and close."""
    connection.sendall(wire.encode_reply(1, b"not you\n"))


@dataclass(frozen=True)
class Client:
    """One way to start the plug-in."""

    argv: Sequence[str]

    def environment(
        self, directory: Path | bytes, variables: Mapping[bytes, bytes], limit: bytes = b""
    ) -> dict[bytes, bytes]:
        """Return all that the plug-in sees; nothing of ours."""
        state = directory if isinstance(directory, bytes) else str(directory).encode()
        ours = {b"WARMBENCH_STATE_DIR": state, b"WARMBENCH_PLUGIN_TIMEOUT": limit}
        # A finding of a sanitizer is told from a CNI error by its exit code.
        return {b"ASAN_OPTIONS": b"exitcode=99", b"PATH": b"/usr/bin:/bin", **ours, **variables}

    def run(
        self,
        directory: Path | bytes,
        variables: Mapping[bytes, bytes] = ADD,
        stdin: bytes = CONF,
        limit: bytes = b"",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command to its end."""
        done = subprocess.run(  # noqa: S603, our own program
            self.argv,
            env=self.environment(directory, variables, limit),
            input=stdin,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.stderr == b""
        return done

    @contextlib.contextmanager
    def started(
        self, directory: Path, variables: Mapping[bytes, bytes] = ADD, stdin: bytes = CONF
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start one command, and end it if the test does not."""
        with subprocess.Popen(  # noqa: S603, our own program
            self.argv,
            env=self.environment(directory, variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.close()
            process.stdin = None
            try:
                yield process
            finally:
                process.kill()
