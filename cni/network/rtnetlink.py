"""A NETLINK_ROUTE socket: many requests in one send, every acknowledgement read.

The kernel carries a batch out while it is sent and goes on after a request that failed, so all
answers are read before the first failure is raised. What the bytes of a request say is
`messages.py`'s business; here only the header that every netlink message opens with is read.
"""

import select
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from cni.network.errors import NetworkError, refused

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_BUFFER_BYTES = 1 << 17
_DUMPS_MAX = 5


@dataclass(frozen=True, slots=True)
class Request:
    """One encoded request: `step` says in words what it does.

    `accepted` are the kernel's error numbers that mean: there is nothing left to do.
    """

    step: str
    data: bytes
    accepted: Collection[int] = ()


@dataclass(slots=True)
class Replies:
    """What came back for one batch: an error number for each request, 0 for done, and messages."""

    errors: list[int]
    said: dict[int, str]
    """The kernel's own words about a failure, by the request's place in the batch."""

    messages: list[bytes]


class RouteSocket:
    """One socket in one network namespace. One thread at a time."""

    def __init__(self, opened: socket.socket, buffer: bytearray | None = None) -> None:
        self._socket = opened
        self._buffer = bytearray(_BUFFER_BYTES) if buffer is None else buffer
        self._broken_off = False
        # Short acknowledgements (4.2), words beside numbers (4.12), dumps filtered by the kernel
        # (4.20): an older kernel refuses the option and does without.
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            try:
                opened.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                continue

    def sharing(self, opened: socket.socket) -> "RouteSocket":
        """Wrap another socket that is used by turns with this one, in the same thread."""
        return RouteSocket(opened, self._buffer)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    def run(self, requests: Sequence[Request]) -> list[bytes]:
        """Carry requests out in one send and return the messages that came beside the answers.

        Raises NetworkError for the first one that failed otherwise than `accepted`.
        """
        if not requests:
            return []
        replies = self.exchange(b"".join(request.data for request in requests), len(requests))
        for place, (request, number) in enumerate(zip(requests, replies.errors, strict=True)):
            if number and number not in request.accepted:
                raise refused(request.step, number, replies.said.get(place, ""))
        return replies.messages

    def exchange(self, batch: bytes | bytearray, count: int) -> Replies:
        """Send `count` requests that all want an acknowledgement, and read every answer.

        Raises NetworkError only where the socket itself fails.
        """
        replies = Replies([], {}, [])
        with self._conversation():
            self._socket.send(batch)
            while len(replies.errors) < count:
                for kind, flags, start, end in self._receive():
                    if kind != _NLMSG_ERROR:
                        replies.messages.append(bytes(self._buffer[start:end]))
                        continue
                    (number,) = _ERROR.unpack_from(self._buffer, start + _HEADER.size)
                    if flags & _NLM_F_ACK_TLVS:
                        said = _words(bytes(self._buffer[start:end]), flags)
                        replies.said[len(replies.errors)] = said
                    replies.errors.append(-number)
        return replies

    def _receive(self) -> Iterator[tuple[int, int, int, int]]:
        """Read what is there: kind and flags of each message, and where it stands in the buffer."""
        received, start = self._socket.recv_into(self._buffer), 0
        while start < received:
            length, kind, flags, _, _ = _HEADER.unpack_from(self._buffer, start)
            yield kind, flags, start, start + length
            start += length + 3 & ~3

    @contextmanager
    def _conversation(self) -> Iterator[None]:
        """Speak and listen; a conversation that broke off leaves no answers to the next one."""
        try:
            if self._broken_off:
                with suppress(BlockingIOError):
                    while self._socket.recv(_BUFFER_BYTES, socket.MSG_DONTWAIT):
                        pass
            self._broken_off = True
            yield
            self._broken_off = False
        except OSError as error:
            raise refused("talk to the kernel", error.errno or 0) from error

    def dump(self, request: Request) -> list[bytes]:
        """Read a whole table; read it again where it changed underneath. Raises NetworkError."""
        for _ in range(_DUMPS_MAX):
            messages, interrupted = self._dump_once(request)
            if not interrupted:
                return messages
        # A table that never holds still is shown as last seen: every entry in it was true once.
        return messages

    def _dump_once(self, request: Request) -> tuple[list[bytes], bool]:
        messages: list[bytes] = []
        interrupted = False
        with self._conversation():
            self._socket.send(request.data)
            while True:
                for kind, flags, start, end in self._receive():
                    interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                    if kind == _NLMSG_DONE:
                        return messages, interrupted
                    if kind == _NLMSG_ERROR:
                        (number,) = _ERROR.unpack_from(self._buffer, start + _HEADER.size)
                        if -number in request.accepted:
                            return messages, interrupted
                        raise refused(request.step, -number)
                    messages.append(bytes(self._buffer[start:end]))

    def next_events(self, timeout_s: float) -> bytes:
        """Wait for events of the groups the socket listens to; empty after `timeout_s`."""
        readable, _, _ = select.select([self._socket], [], [], timeout_s)
        if not readable:
            return b""
        try:
            return self._socket.recv(_BUFFER_BYTES)
        except OSError as error:
            # ENOBUFS: events were lost, so whoever waits must look for himself.
            raise NetworkError(
                "follow the kernel's events", str(error), "look again", error.errno or 0
            ) from error


def attributes(message: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """List the attributes of a message, kind and value, from the byte where they begin."""
    while start + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        yield kind, message[start + _ATTRIBUTE.size : start + length]
        start += max(length + 3 & ~3, _ATTRIBUTE.size)


def attribute(message: bytes, start: int, wanted: int) -> bytes | None:
    """Return one attribute's value, None where the message has none of that kind."""
    end, step = len(message), _ATTRIBUTE.size
    while start + step <= end:
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        if kind == wanted:
            return message[start + step : start + length]
        start += max(length + 3 & ~3, step)
    return None


def _words(message: bytes, flags: int) -> str:
    """Find the text in an extended acknowledgement, empty if it has none."""
    start = _HEADER.size + _ERROR.size + _HEADER.size
    if not flags & _NLM_F_CAPPED:
        (length,) = struct.unpack_from("=I", message, _HEADER.size + _ERROR.size)
        start += length - _HEADER.size + 3 & ~3
    text = attribute(message, start, _NLMSGERR_ATTR_MSG) or b""
    return text.rstrip(b"\0").decode("utf-8", "replace")
