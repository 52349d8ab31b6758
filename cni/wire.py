"""The frame between the plug-in and the daemon, and its version: plain functions on bytes. PURE.

One connection carries one request and one reply. Each is a header of `HEADER_BYTES` and a body:

    header    magic (4: `CNI?` asks, `CNI!` answers), VERSION (4), length of the body (4)
    request   number of variables (4), then each name and value, then standard input
    reply     exit code (1), then what goes to standard output

Numbers are unsigned and big-endian; a name, a value and standard input are a length (4) and its
bytes. With the first byte of a request may come one descriptor (SCM_RIGHTS): the pod's network
namespace, opened by the plug-in because the runtime's paths mean nothing where the daemon lives.
The plug-in never half-closes: when the daemon reads the end of the stream, the caller hung up.

The plug-ins (`plugin/__main__.py`, `plugin/aws-cni.c`) repeat this format instead of importing
it; tests/plugin proves that all three write the same bytes. Nothing is imported here, so that
whoever reads a frame pays for nothing else.
"""

VERSION = 1
HEADER_BYTES = 12
REQUEST_BYTES_MAX = 1 << 20
REPLY_BYTES_MAX = 1 << 20
VARIABLES_MAX = 64
"""Far above the spec's seven `CNI_*` variables, and low enough to bound every loop over them."""

_ASKS = b"CNI?"
_ANSWERS = b"CNI!"
_CODE_MAX = 255


def encode_request(variables: dict[bytes, bytes], stdin: bytes) -> bytes:
    r"""Return the request frame; ValueError when `decode_request` would refuse it.

    >>> encode_request({b"CNI_COMMAND": b"ADD"}, b"{}")[:16]
    b'CNI?\x00\x00\x00\x01\x00\x00\x00 \x00\x00\x00\x01'
    """
    if len(variables) > VARIABLES_MAX:
        raise ValueError(f"a request carries at most {VARIABLES_MAX} variables")
    parts = [_number(len(variables))]
    for name, value in variables.items():
        _check_name(name)
        parts += (_number(len(name)), name, _number(len(value)), value)
    parts += (_number(len(stdin)), stdin)
    body = b"".join(parts)
    if len(body) > REQUEST_BYTES_MAX:
        raise ValueError(f"a request has at most {REQUEST_BYTES_MAX} bytes, not {len(body)}")
    return _ASKS + _number(VERSION) + _number(len(body)) + body


def request_length(header: bytes) -> int:
    """Return how many bytes of body follow a request's header; ValueError if it is none."""
    return _length(header, _ASKS, "request", REQUEST_BYTES_MAX)


def decode_request(body: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Return the variables, in the order sent, and standard input; ValueError if malformed.

    >>> decode_request(encode_request({b"CNI_IFNAME": b"eth0"}, b"{}")[HEADER_BYTES:])
    ({b'CNI_IFNAME': b'eth0'}, b'{}')
    """
    if len(body) > REQUEST_BYTES_MAX:
        raise ValueError(f"a request has at most {REQUEST_BYTES_MAX} bytes, not {len(body)}")
    count, at = _read_number(body, 0)
    if count > VARIABLES_MAX:
        raise ValueError(f"a request carries at most {VARIABLES_MAX} variables, not {count}")
    variables: dict[bytes, bytes] = {}
    for _ in range(count):
        name, at = _read_bytes(body, at)
        value, at = _read_bytes(body, at)
        _check_name(name)
        if name in variables:
            raise ValueError(f"the variable {name!r} is sent twice")
        variables[name] = value
    stdin, at = _read_bytes(body, at)
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes follow the end of the request")
    return variables, stdin


def encode_reply(code: int, stdout: bytes) -> bytes:
    r"""Return the reply frame: the exit code (0..255) and what to print; ValueError if too long.

    >>> encode_reply(1, b"no")
    b'CNI!\x00\x00\x00\x01\x00\x00\x00\x03\x01no'
    """
    if not 0 <= code <= _CODE_MAX:
        raise ValueError(f"an exit code is 0 to {_CODE_MAX}, not {code}")
    if 1 + len(stdout) > REPLY_BYTES_MAX:
        raise ValueError(f"a reply has at most {REPLY_BYTES_MAX} bytes, not {1 + len(stdout)}")
    return _ANSWERS + _number(VERSION) + _number(1 + len(stdout)) + bytes((code,)) + stdout


def reply_length(header: bytes) -> int:
    """Return how many bytes of body follow a reply's header; ValueError if it is none."""
    return _length(header, _ANSWERS, "reply", REPLY_BYTES_MAX)


def decode_reply(body: bytes) -> tuple[int, bytes]:
    """Return the exit code and what to print; ValueError if malformed."""
    if not 1 <= len(body) <= REPLY_BYTES_MAX:
        raise ValueError(f"a reply has 1 to {REPLY_BYTES_MAX} bytes, not {len(body)}")
    return body[0], body[1:]


def _length(header: bytes, magic: bytes, kind: str, most: int) -> int:
    """Return the length that a header announces, once all else in it is as it must be."""
    if len(header) != HEADER_BYTES:
        raise ValueError(f"a {kind}'s header has {HEADER_BYTES} bytes, not {len(header)}")
    if header[:4] != magic:
        raise ValueError(f"a {kind} begins with {magic!r}, not {header[:4]!r}")
    version = int.from_bytes(header[4:8], "big")
    if version != VERSION:
        raise ValueError(
            f"the {kind} has frame version {version}, this side speaks {VERSION}: "
            "plug-in and daemon must come from one release"
        )
    length = int.from_bytes(header[8:], "big")
    if length > most:
        raise ValueError(f"a {kind} has at most {most} bytes, not {length}")
    return length


def _check_name(name: bytes) -> None:
    """Refuse a name that no plug-in sends."""
    if not name.startswith(b"CNI_"):
        raise ValueError(f"a variable's name begins with CNI_, not {name[:16]!r}")


def _number(value: int) -> bytes:
    """Encode a length or a count."""
    return value.to_bytes(4, "big")


def _read_number(body: bytes, at: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset behind it."""
    end = at + 4
    if end > len(body):
        raise ValueError(f"the request ends within a number, at byte {len(body)}")
    return int.from_bytes(body[at:end], "big"), end


def _read_bytes(body: bytes, at: int) -> tuple[bytes, int]:
    """Return the bytes whose length stands at an offset, and the offset behind them."""
    length, start = _read_number(body, at)
    end = start + length
    if end > len(body):
        raise ValueError(f"the request ends at byte {len(body)}, {end - len(body)} too early")
    return body[start:end], end
