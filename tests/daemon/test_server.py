"""The socket: any frame, in any pieces, ends in an answer or a close, and nothing leaks."""

import array
import asyncio
import errno
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from cni import wire
from cni.daemon import server as server_module
from cni.daemon.caller import Caller
from cni.daemon.server import Reply, Server
from tests.daemon import virtual_loop

LOG: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()
FRAME = wire.encode_request({b"CNI_COMMAND": b"ADD", b"CNI_IFNAME": b"eth0"}, b'{"name": "x"}')

pytestmark = pytest.mark.root
"""Only root is served."""


class Recorder:
    """Answers every request alike, and keeps what it saw."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[bytes, bytes], bytes]] = []
        self.callers: list[Caller] = []
        self.namespaces: list[str] = []
        self.unheard: list[Reply] = []
        self.hold: asyncio.Event | None = None

    async def handle(self, variables: dict[bytes, bytes], stdin: bytes, caller: Caller) -> Reply:
        self.requests.append((variables, stdin))
        self.callers.append(caller)
        if caller.netns is not None:
            self.namespaces.append(str(Path(f"/proc/self/fd/{caller.netns}").readlink()))
        if self.hold is not None:
            await self.hold.wait()
        return 0, b'{"answer": true}'

    async def not_heard(self, _variables: dict[bytes, bytes], _stdin: bytes, reply: Reply) -> None:
        self.unheard.append(reply)


@asynccontextmanager
async def serving(tmp_path: Path, recorder: Recorder) -> AsyncIterator[Path]:
    """Run a server while the block runs."""
    path = tmp_path / "cni.sock"
    server = Server(path, recorder.handle, recorder.not_heard, LOG)
    server.start()
    try:
        yield path
    finally:
        await server.stop(5.0)


def run(tmp_path: Path, work: Callable[[Path, Recorder], Awaitable[None]]) -> Recorder:
    """Run a client's work against a server on a loop of its own."""

    async def whole() -> Recorder:
        recorder = Recorder()
        async with serving(tmp_path, recorder) as path:
            await work(path, recorder)
        return recorder

    return asyncio.run(whole())


async def connected(path: Path) -> socket.socket:
    """Return a client's socket."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    await asyncio.get_running_loop().sock_connect(client, str(path))
    return client


async def answer(client: socket.socket) -> bytes:
    """Return all that the server sends until it closes."""
    loop = asyncio.get_running_loop()
    got = b""
    while True:
        try:
            data = await loop.sock_recv(client, 65536)
        except ConnectionResetError:
            break
        if not data:
            break
        got += data
    client.close()
    return got


def descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def decoded(frame: bytes) -> Reply:
    """Return the reply in a frame."""
    assert wire.reply_length(frame[: wire.HEADER_BYTES]) == len(frame) - wire.HEADER_BYTES
    return wire.decode_reply(frame[wire.HEADER_BYTES :])


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_a_frame_may_come_in_pieces(tmp_path: Path, piece: int) -> None:
    """However the kernel cuts it, a request is answered once it is whole."""

    async def work(path: Path, recorder: Recorder) -> None:
        client = await connected(path)
        loop = asyncio.get_running_loop()
        for start in range(0, len(FRAME), piece):
            await loop.sock_sendall(client, FRAME[start : start + piece])
        assert decoded(await answer(client)) == (0, b'{"answer": true}')
        assert recorder.requests == [
            ({b"CNI_COMMAND": b"ADD", b"CNI_IFNAME": b"eth0"}, b'{"name": "x"}')
        ]

    run(tmp_path, work)


def test_a_namespace_comes_as_a_descriptor_and_is_closed(tmp_path: Path) -> None:
    """The command sees the caller's file; after the answer the daemon has it no more."""

    async def work(path: Path, recorder: Recorder) -> None:
        netns = os.open(tmp_path, os.O_RDONLY)
        spare = os.open("/", os.O_RDONLY)
        client = await connected(path)
        fds = array.array("i", [netns, spare])
        client.sendmsg([FRAME], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        os.close(netns)
        os.close(spare)
        before = descriptors()
        await answer(client)
        assert recorder.namespaces == [str(tmp_path)]
        assert descriptors() < before

    run(tmp_path, work)


def test_a_caller_that_hangs_up_is_noticed(tmp_path: Path) -> None:
    """A command that waits hears that nobody waits for it, and its answer counts as unheard."""

    async def work(path: Path, recorder: Recorder) -> None:
        recorder.hold = asyncio.Event()
        client = await connected(path)
        await asyncio.get_running_loop().sock_sendall(client, FRAME)
        while not recorder.callers:
            await asyncio.sleep(0)
        client.close()
        await recorder.callers[0].gone.wait()
        recorder.hold.set()

    assert run(tmp_path, work).unheard == [(0, b'{"answer": true}')]


def test_a_silent_caller_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a frame holds a connection only for so long."""
    monkeypatch.setattr(server_module, "READ_PATIENCE_S", 0.05)

    async def work(path: Path, _recorder: Recorder) -> None:
        client = await connected(path)
        await asyncio.get_running_loop().sock_sendall(client, FRAME[:5])
        assert await answer(client) == b""

    assert run(tmp_path, work).requests == []


def test_the_socket_is_for_root_alone(tmp_path: Path) -> None:
    """Nobody else may open it, and a peer that is not root is refused even with the socket open."""
    other = 65534

    async def work(path: Path, recorder: Recorder) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o666)
        tmp_path.chmod(0o755)
        for folder in tmp_path.parents:
            if folder.stat().st_uid == 0 and len(folder.parts) > 2:
                folder.chmod(folder.stat().st_mode | 0o111)
        pid = os.fork()
        if pid == 0:
            os.setuid(other)
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(str(path))
                client.sendall(FRAME)
                code = 0 if client.recv(10) == b"" else 1
            except (ConnectionResetError, BrokenPipeError):
                code = 0
            except OSError:
                code = 2
            os._exit(code)
        status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status[1]) == 0
        assert recorder.requests == []

    run(tmp_path, work)


def test_hostile_bytes_end_in_a_close(tmp_path: Path) -> None:
    """After a thousand broken frames the next good one is answered, with no descriptor more."""
    rng = random.Random(7)

    async def work(path: Path, recorder: Recorder) -> None:
        before = descriptors()
        for _ in range(1000):
            broken = bytearray(FRAME)
            for _ in range(rng.randint(1, 4)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            broken += rng.randbytes(rng.choice([0, 0, 3]))
            client = await connected(path)
            await asyncio.get_running_loop().sock_sendall(client, bytes(broken))
            client.shutdown(socket.SHUT_WR)
            got = await answer(client)
            assert got == b"" or decoded(got)[0] == 0
        recorder.requests.clear()
        client = await connected(path)
        await asyncio.get_running_loop().sock_sendall(client, FRAME)
        assert decoded(await answer(client)) == (0, b'{"answer": true}')
        assert descriptors() == before

    run(tmp_path, work)


class Exhausted(socket.socket):
    """A listener of a process that has no descriptor left, for so many tries."""

    left = 0
    tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        assert self.tries <= 20, "the loop turns for nothing"
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


def test_without_descriptors_the_loop_turns_for_others(tmp_path: Path) -> None:
    """A connection that cannot be accepted waits in the backlog, and nobody else for it."""

    async def script() -> None:
        recorder = Recorder()
        server = Server(tmp_path / "cni.sock", recorder.handle, recorder.not_heard, LOG)
        server.start()
        assert server._listener is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(server._listener)
        server._listener = listener = Exhausted(fileno=server._listener.detach())
        listener.setblocking(False)
        listener.left = 10
        client = await connected(tmp_path / "cni.sock")
        await loop.sock_sendall(client, FRAME)
        started = loop.time()
        server._listen(listener)
        assert (await loop.sock_recv(client, 100)).endswith(b'{"answer": true}')
        assert loop.time() - started == pytest.approx(10 * server_module.ACCEPT_AGAIN_S)
        client.close()
        await server.stop(1.0)

    virtual_loop.run(script())
