"""The Unix socket: a frame in, a frame out, one command a connection.

Only root may connect: the socket is mode 0600 in a root-only folder, and the kernel names the
peer. The plug-in passes the pod's network namespace along as a descriptor, since a daemon in a
container does not see the runtime's paths.
"""

import array
import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import structlog

from cni import wire
from cni.daemon.caller import Caller

READ_PATIENCE_S = 5.0
"""How long a caller may take to send its frame: the plug-in sends it in one piece."""

CONNECTIONS_MAX = 1024
ACCEPT_AGAIN_S = 0.2
"""Pause after a connection could not be accepted; it waits in the backlog meanwhile."""
_BACKLOG = 512
_FDS_MAX = 8
_CREDENTIALS = struct.Struct("3i")

Reply = tuple[int, bytes]
Handle = Callable[[dict[bytes, bytes], bytes, Caller], Awaitable[Reply]]
"""Answers one request: exit code and standard output; never raises."""
Unheard = Callable[[dict[bytes, bytes], bytes, Reply], Awaitable[None]]
"""Hears of a reply that its caller was not there for."""


class Server:
    """Listens for plug-ins on the running event loop."""

    def __init__(
        self, path: Path, handle: Handle, unheard: Unheard, log: structlog.stdlib.BoundLogger
    ) -> None:
        """Stand by for `start`."""
        self._path = path
        self._handle = handle
        self._unheard = unheard
        self._log = log
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listen; OSError where the folder cannot be written."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # The ledger's lock says that no other daemon lives: what is here is a dead one's.
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        self._listener = listener
        self._listen(listener)

    def _listen(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._tasks)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Out of descriptors, say. The listener stays readable: without a pause the loop
                # would turn for nothing, while who has descriptors waits for it.
                self._log.warning("cannot accept a plug-in", error=str(error))
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                self._again = loop.call_later(ACCEPT_AGAIN_S, self._listen, listener)
                return
            peer.setblocking(False)
            uid = _uid_of(peer)
            if uid != 0 or len(self._tasks) >= CONNECTIONS_MAX:
                self._log.warning("plug-in refused", uid=uid, connections=len(self._tasks))
                peer.close()
                continue
            task = asyncio.get_running_loop().create_task(self._serve(peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: socket.socket) -> None:
        """Serve one connection; whatever the caller sends, it ends in an answer or a close."""
        caller = Caller()
        try:
            frame = _Frame(peer, caller)
            # The plug-in sends before it is accepted: nearly always all of it is there.
            request = frame.at_once()
            if request is None:
                request = await asyncio.wait_for(frame.read(), READ_PATIENCE_S)
            variables, stdin = wire.decode_request(request)
        except _NoRequest:
            peer.close()
            return
        except (ValueError, OSError, TimeoutError) as error:
            self._log.warning("bad request", error=str(error) or "it took too long")
            peer.close()
            _close(caller)
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(peer, _hear_hang_up, loop, peer, caller)
        try:
            reply = await self._handle(variables, stdin, caller)
            try:
                await loop.sock_sendall(peer, wire.encode_reply(*reply))
            except OSError:
                await self._unheard(variables, stdin, reply)
        finally:
            loop.remove_reader(peer)
            peer.close()
            _close(caller)

    async def stop(self, patience_s: float) -> None:
        """Take no more callers, and let those that are here have their answer."""
        if self._listener is not None:
            if self._again is not None:
                self._again.cancel()
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._path.unlink(missing_ok=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_s)


class _NoRequest(Exception):  # noqa: N818 - not an error
    """The caller connected and hung up."""


class _Frame:
    """Reads one frame, and the descriptors that come with its first bytes."""

    def __init__(self, peer: socket.socket, caller: Caller) -> None:
        self._peer = peer
        self._caller = caller
        self._buffer = bytearray()
        self._done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def at_once(self) -> bytes | None:
        """Return the body if it has come already; None where there is something to wait for."""
        self._readable()
        return self._done.result() if self._done.done() else None

    async def read(self) -> bytes:
        """Return the body of the frame; ValueError where it is none."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._peer, self._readable)
        try:
            return await self._done
        finally:
            loop.remove_reader(self._peer)

    def _readable(self) -> None:
        try:
            self._receive()
        except (ValueError, OSError, _NoRequest) as error:
            if not self._done.done():
                self._done.set_exception(error)

    def _receive(self) -> None:
        try:
            data, ancillary, _flags, _from = self._peer.recvmsg(
                65536, socket.CMSG_SPACE(4 * _FDS_MAX), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        self._keep_fds(ancillary)
        if not data:
            # Whoever only looks whether somebody listens sends nothing.
            raise _NoRequest if not self._buffer else ValueError("the request ends halfway")
        buffer = self._buffer
        buffer += data
        if len(buffer) < wire.HEADER_BYTES:
            return
        length = wire.request_length(bytes(buffer[: wire.HEADER_BYTES]))
        body = bytes(buffer[wire.HEADER_BYTES :])
        if len(body) > length:
            raise ValueError("there is more than one request")
        if len(body) == length and not self._done.done():
            self._done.set_result(body)

    def _keep_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        for fd in fds:
            # One namespace is all a command needs; a caller that sends more gets them closed.
            if self._caller.netns is None:
                self._caller.netns = fd
            else:
                os.close(fd)


def _hear_hang_up(loop: asyncio.AbstractEventLoop, peer: socket.socket, caller: Caller) -> None:
    """Notice that the caller closed its end; anything else it sends is not asked for."""
    try:
        ended = not peer.recv(65536)
    except BlockingIOError:
        return
    except OSError:
        ended = True
    if ended:
        loop.remove_reader(peer)
        caller.gone.set()


def _uid_of(peer: socket.socket) -> int:
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(raw)
    return int(uid)


def _close(caller: Caller) -> None:
    if caller.netns is not None:
        with suppress(OSError):
            os.close(caller.netns)
        caller.netns = None
