#!/usr/bin/python3 -ISE
"""The CNI executable: sends its variables and standard input to the daemon, prints the answer.

Installed alone as `aws-cni` and started for every command of every pod, three times a pod (an ADD
and two DELs), so all that the interpreter must do before it can ask counts: nothing is imported
but what is compiled into it, and what only trouble needs stands in the text `IN_TROUBLE`, because
Python would spend a millisecond on compiling it each time (a test checks that text as code). The
frame is told in cni/wire.py; aws-cni.c is the twin, and tests/plugin holds both to one contract.

A daemon that is not there fails a command with error 11, try again later. DEL alone succeeds: it
leaves a tombstone, which the daemon reads before it serves, so that pods never hang in
Terminating. A daemon that is there and does not answer fails DEL too, because a tombstone of a
command that may still be carried out could outlive a later ADD of the same container.
"""

import _socket
import posix
import sys

VERSION_ANSWER = b'{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}\n'
STATE_DIR = b"/var/run/aws-node"
LIMIT_S = 110
BYTES_MAX = 1 << 20
VARIABLES_MAX = 64
ASKS = b"CNI?\0\0\0\1"
ANSWERS = b"CNI!\0\0\0\1"


def main() -> int:
    """Serve one command; return the exit code."""
    environ, stdin, frame = posix.environ, b"", b""
    try:
        # Where the caller closed one of these, the socket must not take its place.
        posix.fstat(0), posix.fstat(1), posix.fstat(2)
        # VERSION is known without a daemon, and a runtime may ask for it long before.
        code, answer = 0, VERSION_ANSWER
        if environ.get(b"CNI_COMMAND") != b"VERSION":
            while len(stdin) <= BYTES_MAX and (part := posix.read(0, 65536)):
                stdin += part
            frame = request(environ, stdin)
            code, answer = ask(environ, frame)
        while answer:
            answer = answer[posix.write(1, answer) :]
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001, a runtime reads no traceback
        code = in_trouble("recover")(error, environ, stdin, frame)
    return code


def request(environ: dict[bytes, bytes], stdin: bytes) -> bytes:
    """Encode the request as `wire.encode_request` does."""
    texts: list[bytes] = []
    for item in environ.items():
        if item[0].startswith(b"CNI_"):
            texts += item
    count = len(texts) // 2
    body = count.to_bytes(4, "big") + b"".join(map(sized, (*texts, stdin)))
    if count > VARIABLES_MAX or len(body) > BYTES_MAX:
        raise ValueError("request" if count <= VARIABLES_MAX else "variables")
    return ASKS + sized(body)


def sized(text: bytes) -> bytes:
    """Put its length before a text."""
    return len(text).to_bytes(4, "big") + text


def ask(environ: dict[bytes, bytes], frame: bytes) -> tuple[int, bytes]:
    """Send the frame; return the daemon's exit code and output."""
    limit = environ.get(b"WARMBENCH_PLUGIN_TIMEOUT")
    limit_s = in_trouble("seconds")(limit) if limit else LIMIT_S
    deadline = posix.times().elapsed + limit_s
    rights = []
    try:
        # Whatever else the path may name, a FIFO for one, opening it must not wait.
        netns = posix.open(environ.get(b"CNI_NETNS", b""), posix.O_NONBLOCK)
        rights = [(1, 1, netns.to_bytes(4, sys.byteorder))]  # SOL_SOCKET, SCM_RIGHTS.
    except OSError:
        pass  # The daemon says what it lacks.
    sock = _socket.socket(_socket.AF_UNIX)
    sock.settimeout(limit_s)
    path = (environ.get(b"WARMBENCH_STATE_DIR") or STATE_DIR) + b"/cni.sock"
    try:
        sock.connect(path)
    except BlockingIOError:
        in_trouble("connect")(sock, path, deadline)
    try:
        sent = sock.sendmsg([frame], rights)
        if sent < len(frame):
            in_trouble("send")(sock, frame, sent, deadline)
    except (BrokenPipeError, ConnectionResetError):
        pass  # It may have refused halfway: what it said then is still there to be read.
    sock.settimeout(max(deadline - posix.times().elapsed, 0.01))
    answer = sock.recv(65536)
    if len(answer) < 13 or answer[:8] != ANSWERS or answer[8:] != sized(answer[12:]):
        answer = in_trouble("receive")(sock, answer, deadline)
    return answer[12], answer[13:]


def in_trouble(name: str):  # type: ignore[no-untyped-def]  # noqa: ANN201, `typing` costs 9 ms
    """Return a function of the text below."""
    exec(IN_TROUBLE, globals())  # noqa: S102, the text is ours and constant
    return globals()[name]


IN_TROUBLE = r'''
INVALID_ENVIRONMENT, IO_FAILURE, INVALID_CONFIG, TRY_AGAIN_LATER = 4, 5, 7, 11
LIMIT_S_MAX = 3600
SOCKET_PATH_MAX = 107  # unix(7): sun_path less its NUL.
ID_MAX = 200
IFNAME_MAX = 15
ALNUM = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CAUSES = {
    "variables": (INVALID_ENVIRONMENT, f"more than {VARIABLES_MAX} variables begin with CNI_"),
    "request": (
        INVALID_CONFIG,
        f"the CNI variables and standard input have together more than {BYTES_MAX} bytes",
    ),
    "limit": (
        INVALID_ENVIRONMENT,
        f"WARMBENCH_PLUGIN_TIMEOUT must be seconds, more than 0 and at most {LIMIT_S_MAX}",
    ),
    "container": (INVALID_ENVIRONMENT, "CNI_CONTAINERID is missing or not a container ID"),
    "ifname": (INVALID_ENVIRONMENT, "CNI_IFNAME is missing or not an interface's name"),
    "version": (
        TRY_AGAIN_LATER,
        "the daemon speaks another frame version: plug-in and daemon must be of one release",
    ),
    "length": (TRY_AGAIN_LATER, "the daemon's answer has a length that none may have"),
    "closed": (TRY_AGAIN_LATER, "the daemon closed the connection without an answer; see its log"),
}


def recover(error: BaseException, environ: dict[bytes, bytes], stdin: bytes, frame: bytes) -> int:
    """Bring a command to its end that the daemon did not answer; return the exit code."""
    if isinstance(error, OSError) and filled_standard_streams():
        return main()
    absent = isinstance(error, (FileNotFoundError, ConnectionRefusedError)) and frame
    if absent and environ.get(b"CNI_COMMAND") == b"DEL":
        try:
            bury(environ, frame[len(ASKS) + 4 :])
        except (OSError, ValueError) as failure:
            return put(1, failed(*cause_in_bury(failure, environ), stdin))
        return 0
    return put(1, failed(*cause(error, environ, frame), stdin))


def filled_standard_streams() -> bool:
    """Open /dev/null for standard streams that the caller closed; tell whether one was."""
    filled = False
    for fd in (0, 1, 2):
        try:
            posix.fstat(fd)
        except OSError:
            posix.open("/dev/null", posix.O_RDWR)
            filled = True
    return filled


def cause(error: BaseException, environ: dict[bytes, bytes], frame: bytes) -> tuple[int, str]:
    """Return code and message for what went wrong before or while asking."""
    if isinstance(error, ValueError) and str(error) in CAUSES:
        return CAUSES[str(error)]
    why = getattr(error, "strerror", None) or type(error).__name__
    if not frame:
        return IO_FAILURE, f"cannot read standard input: {why}"
    if isinstance(error, (TimeoutError, BlockingIOError)):
        limit = environ.get(b"WARMBENCH_PLUGIN_TIMEOUT") or b"%d" % LIMIT_S
        return TRY_AGAIN_LATER, f"the daemon did not answer within {shown(limit)} s; see its log"
    path = state_dir(environ) + b"/cni.sock"
    if len(path) > SOCKET_PATH_MAX:
        most = SOCKET_PATH_MAX - len(b"/cni.sock")
        return INVALID_ENVIRONMENT, f"WARMBENCH_STATE_DIR may have at most {most} bytes"
    text = f"no daemon answers at {shown(path)} ({why}); the aws-node pod of this node must run"
    return TRY_AGAIN_LATER, text


def cause_in_bury(failure: Exception, environ: dict[bytes, bytes]) -> tuple[int, str]:
    """Return code and message for a tombstone that could not be written."""
    if isinstance(failure, OSError):
        folder = shown(state_dir(environ) + b"/tombstones")
        text = f"no daemon answers, and the DEL cannot be noted in {folder}: {failure.strerror}"
        return TRY_AGAIN_LATER, text
    return CAUSES[str(failure)]


def state_dir(environ: dict[bytes, bytes]) -> bytes:
    """Return the folder of socket and tombstones."""
    return environ.get(b"WARMBENCH_STATE_DIR") or STATE_DIR


def put(code: int, answer: bytes) -> int:
    """Write all of the answer; return the exit code, 1 if nobody reads."""
    try:
        while answer:
            answer = answer[posix.write(1, answer) :]
    except OSError:
        return 1
    return code


def failed(code: int, message: str, stdin: bytes) -> bytes:
    """Encode a CNI error, in the configuration's version as far as that can be seen."""
    version = b"1.1.0"
    after = stdin.partition(b'"cniVersion"')[2].lstrip(b" \t\r\n:")
    for known in (b"0.3.1", b"0.4.0", b"1.0.0"):
        if after.startswith(b'"' + known + b'"'):
            version = known
    text = b'{"cniVersion":"%s","code":%d,"msg":"%s"}\n'
    return text % (version, code, message.encode())


def shown(text: bytes) -> str:
    """Make bytes of the environment fit for a JSON string."""
    return "".join([chr(c) if 32 <= c < 127 and c not in b'"\\' else "?" for c in text[:200]])


def seconds(limit: bytes) -> float:
    """Read the time limit: up to four digits, and up to three behind a point."""
    whole, point, part = limit.partition(b".")
    good = whole.isdigit() and len(whole) <= 4
    good_part = part.isdigit() and len(part) <= 3 if point else True
    if not good or not good_part or not 0 < float(limit) <= LIMIT_S_MAX:
        raise ValueError("limit")
    return float(limit)


def allow(sock: _socket.socket, deadline: float) -> float:
    """Let the next call on the socket wait until the deadline; return the seconds until then."""
    left = deadline - posix.times().elapsed
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)
    return left


def connect(sock: _socket.socket, path: bytes, deadline: float) -> None:
    """Connect to a daemon whose backlog is full, which refuses whoever will not block."""
    left = int(allow(sock, deadline) * 1e6)
    # A struct timeval of two longs; where these are shorter, the fraction is lost.
    value = b"".join([part.to_bytes(8, sys.byteorder) for part in divmod(left, 1_000_000)])
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, value)
    sock.settimeout(None)
    sock.connect(path)
    allow(sock, deadline)


def send(sock: _socket.socket, frame: bytes, sent: int, deadline: float) -> None:
    """Send the rest of a frame that the kernel took in part."""
    rest = memoryview(frame)[sent:]
    while rest:
        allow(sock, deadline)
        rest = rest[sock.send(rest) :]


def receive(sock: _socket.socket, answer: bytes, deadline: float) -> bytes:
    """Receive the rest of an answer that did not come in one piece."""
    size = 12
    while True:
        if len(answer) >= 12 and size == 12:
            if answer[:8] != ANSWERS:
                raise ValueError("version")
            size += int.from_bytes(answer[8:12], "big")
            if not 12 < size <= 12 + BYTES_MAX:
                raise ValueError("length")
        if len(answer) >= size:
            return answer[:size]
        allow(sock, deadline)
        part = sock.recv(min(size - len(answer), 65536)) if answer else b""
        if not part:
            raise ValueError("closed")
        answer += part


def bury(environ: dict[bytes, bytes], body: bytes) -> None:
    """Leave a tombstone: the request's body, in a file named for container and interface."""
    name = tombstone_name(environ.get(b"CNI_CONTAINERID", b""), environ.get(b"CNI_IFNAME", b""))
    tombstones = state_dir(environ) + b"/tombstones"
    for path in (state_dir(environ), tombstones):
        try:
            posix.mkdir(path, 0o700)
        except FileExistsError:
            pass
    flags = posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    folder = posix.open(tombstones, flags)
    status = posix.fstat(folder)
    if status.st_uid != posix.geteuid() or status.st_mode & 0o022:
        raise PermissionError(1, "others may write there")
    # Readers pass over names that begin with a point. Nothing is synced: what could undo a
    # rename is a reboot, and that voids every assignment.
    draft = b".%d" % posix.getpid()
    try:
        posix.unlink(draft, dir_fd=folder)
    except FileNotFoundError:
        pass
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    file = posix.open(draft, flags, 0o600, dir_fd=folder)
    try:
        while body:
            body = body[posix.write(file, body) :]
        posix.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        posix.unlink(draft, dir_fd=folder)
        raise


def tombstone_name(container: bytes, ifname: bytes) -> bytes:
    """Return `container:ifname`, which no other sandbox has, once both make a file's name."""
    good = 1 <= len(container) <= ID_MAX and container[0] in ALNUM
    if not good or container.strip(ALNUM + b"_.-"):
        raise ValueError("container")
    good = 1 <= len(ifname) <= IFNAME_MAX and ifname not in (b".", b"..")
    if not good or [c for c in ifname if c in b"/: \t\n\v\f\r"]:
        raise ValueError("ifname")
    return container + b":" + ifname
'''

if __name__ == "__main__":
    # Without the interpreter's tidying up, which costs time and saves nothing here.
    posix._exit(main())  # noqa: SLF001, public under this name
