"""Answers HTTP on one address of the running event loop, within bounds.

Who asks is not trusted: the port of metrics and health is open to every pod of the node. So a
connection carries one request, lives five seconds whatever its peer does, and only so many are
open at once; else idle connections could use up the descriptors that plug-ins need.
"""

import asyncio
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from errno import EADDRINUSE
from pathlib import Path

import structlog
from aiohttp import web

UNIX = "unix:"
SOCKET_MODE = 0o600
_BACKLOG = 128
_LINE_BYTES_MAX = 2048
_STOP_S = 0.5


class ListenError(Exception):
    """An address cannot be listened on; one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What callers together, those of one address, and each of them may use."""

    connections: int = 256
    of_one_peer: int = 8
    """So that no pod keeps the kubelet's probes out, which come from the node's address."""

    connection_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Page = Callable[[], Answer]


class Site:
    """Pages by path; only GET and HEAD, and no request has a body."""

    def __init__(
        self, pages: Mapping[str, Page], otherwise: Page, log: structlog.stdlib.BoundLogger
    ) -> None:
        """Answer by these pages, and by `otherwise` where a path is unknown."""
        self._pages = pages
        self._otherwise = otherwise
        self._log = log

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, and close its connection."""
        answer = self._answer(request)
        response = web.Response(
            status=answer.status,
            body=answer.body,
            headers={"Content-Type": answer.content_type, "Cache-Control": "no-store"},
        )
        if answer.status == web.HTTPMethodNotAllowed.status_code:
            response.headers["Allow"] = "GET, HEAD"
        response.force_close()
        return response

    def _answer(self, request: web.BaseRequest) -> Answer:
        if request.method not in ("GET", "HEAD"):
            status = web.HTTPMethodNotAllowed.status_code
            return Answer(b"only GET and HEAD are answered here\n", status=status)
        if request.body_exists:
            status = web.HTTPRequestEntityTooLarge.status_code
            return Answer(b"a request here has no body\n", status=status)
        try:
            return self._pages.get(request.path, self._otherwise)()
        except Exception:  # noqa: BLE001 - whoever looks must not harm what is looked at
            self._log.exception("page broke", path=request.path)
            return Answer(b"a fault of the daemon; see its log\n", status=500)


class Listening:
    """A site that is being served; `stop` it."""

    def __init__(
        self, sock: socket.socket, site: Site, bounds: Bounds, unlink: "_SocketFile | None"
    ) -> None:
        """Serve on a bound socket once `_start` has run."""
        self.address = _shown(sock)
        self._sock = sock
        self._bounds = bounds
        self._file = unlink
        self._guards: set[_Guard] = set()
        self._listener: asyncio.Server | None = None
        self._http = web.Server(
            site.handle,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=0.0,
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_LINE_BYTES_MAX,
        )

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        make: Callable[[], asyncio.Protocol] = self._guard
        if self._sock.family == socket.AF_UNIX:
            self._listener = await loop.create_unix_server(make, sock=self._sock, backlog=_BACKLOG)
        else:
            self._listener = await loop.create_server(make, sock=self._sock, backlog=_BACKLOG)

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._guards)

    async def stop(self) -> None:
        """Take no more callers, let answers under way end, and leave no socket behind."""
        assert self._listener is not None
        self._listener.close()
        self._http.pre_shutdown()
        await self._http.shutdown(_STOP_S)
        for guard in list(self._guards):
            guard.end()
        await self._listener.wait_closed()
        # The transports close their sockets in the loop's next round.
        await asyncio.sleep(0)
        if self._file is not None:
            self._file.remove()

    def _guard(self) -> "_Guard":
        return _Guard(self._http(), self._guards, self._bounds)


async def listen(
    address: str,
    variable: str,
    make_site: Callable[[bool], Site],
    bounds: Bounds | None = None,
) -> Listening:
    """Serve on `HOST:PORT` or `unix:PATH`; raises ListenError, which names the variable.

    `make_site` is told whether only this machine can reach the address. An empty host is every
    interface, as in Go; port 0 is any free one.
    """
    file = None
    try:
        if address.startswith(UNIX):
            sock, file = _bind_unix(Path(address.removeprefix(UNIX)))
        else:
            sock = await _bind_tcp(address)
        try:
            listening = Listening(sock, make_site(_is_local(sock)), bounds or Bounds(), file)
            await listening._start()  # noqa: SLF001 - the only door to it
        except BaseException:
            sock.close()
            raise
    except ListenError as error:
        raise ListenError(f"{variable}={address}: {error}") from error
    except OSError as error:
        raise ListenError(f"{variable}={address}: {_what(error)}") from error
    return listening


# Sockets.


async def _bind_tcp(address: str) -> socket.socket:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the last port
        raise ListenError("write HOST:PORT or unix:PATH")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host.strip("[]") or None,
        int(port),
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    family, kind, protocol, _, where = min(found, key=lambda one: one[0])
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        # A restarted daemon must not wait for the connections of the one before it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        # Bound is not enough to hold a port against SO_REUSEADDR; listening is.
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


@dataclass(frozen=True, slots=True)
class _SocketFile:
    """A socket in the file system, known by its inode: another daemon may have put its own."""

    path: Path
    inode: int

    def remove(self) -> None:
        with suppress(OSError):
            if self.path.lstat().st_ino == self.inode:
                self.path.unlink()


def _bind_unix(path: Path) -> tuple[socket.socket, _SocketFile]:
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Linux gives the file the mode of the socket: there is no instant in which others may.
        os.fchmod(sock.fileno(), SOCKET_MODE)
        sock.bind(str(path))
        return sock, _SocketFile(path, path.lstat().st_ino)
    except OSError:
        sock.close()
        raise


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on; ListenError where it is something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError("this file is no socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Such a connection is made or refused at once; a full backlog (EAGAIN) is somebody's.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise ListenError("another process listens on this socket; stop it first")


def _is_local(sock: socket.socket) -> bool:
    if sock.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(sock.getsockname()[0]).is_loopback


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"{UNIX}{name}"
    host = f"[{name[0]}]" if sock.family == socket.AF_INET6 else name[0]
    return f"{host}:{name[1]}"


def _what(error: OSError) -> str:
    if error.errno == EADDRINUSE:
        return (
            "another process listens there, maybe another CNI daemon; stop it, or choose another"
            " address"
        )
    return error.strerror or str(error)


# Connections.


class _Guard(asyncio.Protocol):
    """Stands between a connection and aiohttp, and ends it when its time is up."""

    def __init__(self, http: web.RequestHandler, guards: "set[_Guard]", bounds: Bounds) -> None:
        self._http = http
        self._guards = guards
        self._bounds = bounds
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        bounds = self._bounds
        self.peer = _peer_of(transport)
        like_me = sum(guard.peer == self.peer for guard in self._guards)
        if len(self._guards) >= bounds.connections or like_me >= bounds.of_one_peer:
            transport.abort()
            return
        self._transport = transport
        self._guards.add(self)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(bounds.connection_s, transport.abort)
        self._http.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._guards.discard(self)
        self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._http.data_received(data)

    def eof_received(self) -> None:
        self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def end(self) -> None:
        assert self._transport is not None
        self._transport.abort()


def _peer_of(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""
