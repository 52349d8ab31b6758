"""The daemon's log: one JSON object a line, with upstream's keys (`ts`, `level`, `msg`).

Nothing global is configured: a log is a value that `logger` makes and `close` ends. Secrets are
blanked in every line, and a warning that repeats without end is counted instead of written.
"""

import logging
import logging.handlers
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import structlog

from cni.settings import Settings

FILE_BYTES_MAX = 100 * 1024 * 1024
FILES_KEPT = 5
"""Upstream's rotation: 100 MB, five old files (`zaplogger.go`)."""

TEXT_MAX = 8192
"""Characters of one value: what a caller sends must not fill the disk."""

_SECRET_MAX = 4096

REPEATS_MAX = 5
REPEATS_S = 60.0
KINDS_MAX = 256

_LEVELS = {
    "Debug": logging.DEBUG,
    "Info": logging.INFO,
    "Warn": logging.WARNING,
    "Error": logging.ERROR,
    "Fatal": logging.CRITICAL,
}

_STREAMS: Mapping[str, Callable[[], TextIO]] = {
    "stdout": lambda: sys.stdout,
    "stderr": lambda: sys.stderr,
}

_BLANK = "***"
_SECRET_NAME = re.compile(
    r"secret|password|passwd|authorization|credential|private_?key"
    r"|(session|security|metadata|bearer|access)_?-?token|^token$",
    re.IGNORECASE,
)
_SECRET_TEXT = tuple(
    (re.compile(pattern, re.IGNORECASE), rf"\1{_BLANK}\2")
    for pattern in (
        # A URL's user and password.
        r"(://)[^/@\s]+(@)",
        # What AWS signs a request with, in a header or a query.
        r"(X-Amz-(?:Security-Token|Signature|Credential)=)[^&\s\"']+()",
        r"(x-aws-ec2-metadata-token['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+()",
        r"(AWS4-HMAC-SHA256 )[^\"']+()",
        # A field of a printed object: 'SecretAccessKey': '…'
        r"((?:secret_?access_?key|session_?token|password)['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+()",
        # The id of an access key.
        r"(\b)(?:AKIA|ASIA)[A-Z0-9]{16}(\b)",
    )
)

Line = MutableMapping[str, Any]


def logger(settings: Settings, unix_now: Callable[[], float]) -> structlog.stdlib.BoundLogger:
    """Open the log that the settings name; standard error where its file cannot be written.

    AWS_VPC_K8S_CNI_LOGLEVEL is the level, AWS_VPC_K8S_CNI_LOG_FILE a path, stdout or stderr.
    """
    level = _LEVELS[settings.other["AWS_VPC_K8S_CNI_LOGLEVEL"]]
    target = settings.other["AWS_VPC_K8S_CNI_LOG_FILE"]
    handler, problem = _handler(target)
    handler.setFormatter(_AsItIs())
    out = logging.Logger("aws-k8s-agent", level)  # noqa: LOG001 - in nobody's tree, as said above
    out.addHandler(handler)
    log = _bound(out, unix_now)
    if problem:
        log.warning("the log goes to standard error", file=target, error=problem)
    return log


def close(log: structlog.stdlib.BoundLogger) -> None:
    """Close the log's file; standard streams stay open."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()


@contextmanager
def libraries_heard(log: structlog.stdlib.BoundLogger) -> Iterator[None]:
    """Write what libraries warn of (asyncio of a lost exception, say) into the log, while open."""
    root = logging.getLogger()
    handler = _Libraries(log)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def without_secrets(text: str) -> str:
    """Blank what looks like a secret in a text.

    >>> without_secrets("https://joe:hunter2@proxy:3128 refused")
    'https://***@proxy:3128 refused'
    """
    for pattern, instead in _SECRET_TEXT:
        text = pattern.sub(instead, text)
    return text


def _bound(out: logging.Logger, unix_now: Callable[[], float]) -> structlog.stdlib.BoundLogger:
    write = structlog.processors.JSONRenderer(default=str)
    log = structlog.wrap_logger(
        out,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            _cleaned,
            Repeats(unix_now, write),
            _Stamp(unix_now),
            write,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    return cast("structlog.stdlib.BoundLogger", log.bind())


# Where lines go.


def _handler(target: str) -> tuple[logging.Handler, str]:
    """Open the target; with standard error, why it is not the file that was asked for."""
    if target in _STREAMS:
        return _Stream(_STREAMS[target]()), ""
    path = Path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _RotatedFile(path), ""
    except OSError as error:
        return _Stream(sys.stderr), f"{error.filename}: {error.strerror}"


class _AsItIs(logging.Formatter):
    """Writes the line, which has its traceback in it; logging would append another."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage()


class _Quiet(logging.Handler):
    """A handler whose failure is told once: a full disk must stop neither pods nor the daemon."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's
        if not self._told:
            self._told = True
            error = sys.exc_info()[1]
            sys.stderr.write(f"aws-k8s-agent: lines of the log are lost: {error}\n")


class _Stream(_Quiet, logging.StreamHandler[TextIO]):
    """Standard output or standard error."""


class _RotatedFile(_Quiet, logging.handlers.RotatingFileHandler):
    """A file that makes room for itself; only root reads it, as upstream's."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8")

    def _open(self) -> Any:  # noqa: ANN401 - TextIOWrapper, which typeshed spells differently
        stream = super()._open()
        Path(self.baseFilename).chmod(0o600)
        return stream


class _Libraries(logging.Handler):
    """Passes on what libraries warn of."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write(
            "library",
            library=record.name,
            said=record.getMessage(),
            exc_info=record.exc_info,
        )


# What lines hold.


class _Stamp:
    """Puts time, level and message first, under upstream's names."""

    def __init__(self, unix_now: Callable[[], float]) -> None:
        self._unix_now = unix_now

    def __call__(self, _logger: object, _method: str, line: Line) -> Line:
        first = {
            "ts": stamp(self._unix_now()),
            "level": _shown(line.pop("level")),
            "msg": line.pop("event"),
        }
        return {**first, **line, **first}


def _shown(level: str) -> str:
    """Name a level as upstream's log does (zap)."""
    return {"warning": "warn", "critical": "fatal"}.get(level, level)


def stamp(unix: float) -> str:
    """Write an instant as RFC 3339 has it, in UTC, to the millisecond.

    >>> stamp(1.5)
    '1970-01-01T00:00:01.500Z'
    """
    whole, thousandths = divmod(round(unix * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{thousandths:03d}Z"


def _cleaned(_logger: object, _method: str, line: Line) -> Line:
    """Blank secrets and cut long texts, however deep they lie."""
    return {name: _clean(name, value) for name, value in line.items()}


def _clean(name: str, value: object) -> object:
    if isinstance(value, bool | int | float) or value is None:
        return value
    if _SECRET_NAME.search(name):
        return _BLANK
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), one) for key, one in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_clean("", one) for one in value]
    # Cut twice: what is searched must be short, and no secret may lie across its end.
    text = without_secrets(str(value)[: TEXT_MAX + _SECRET_MAX])
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "…"


# What repeats.


@dataclass(slots=True)
class _Kind:
    """Warnings that say the same: how many there were since the first one of them."""

    since: float
    written: int
    held_back: int


class Repeats:
    """Holds back warnings and errors that say the same, and counts them.

    Two lines say the same if they differ in ids, addresses and numbers only: a storm of refused
    ADDs names another pod in each. Five within a minute are written; a line at the end of the
    minute (or with the next line after it) tells how many more there were.
    """

    _TELLING = ("action", "cause", "code", "command", "detail", "error", "failure", "library")
    _TELLING_TOO = ("problem", "reason", "said", "warning", "why", "what")
    _CHANGING = re.compile(r"[0-9a-f]{6,}|\d+", re.IGNORECASE)

    def __init__(
        self, unix_now: Callable[[], float], write: Callable[[object, str, Line], str | bytes]
    ) -> None:
        """Start with nothing seen; `write` renders the lines that tell how many more."""
        self._unix_now = unix_now
        self._write = write
        self._kinds: dict[tuple[str, ...], _Kind] = {}

    def __call__(self, out: logging.Logger, _method: str, line: Line) -> Line:
        """Pass a line on, or raise DropEvent."""
        now = self._unix_now()
        self._tell_ended(out, now)
        if line["level"] not in ("warning", "error") or "exception" in line:
            return line
        key = self._key(line)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= KINDS_MAX:
                self._tell(out, next(iter(self._kinds)), now)
            kind = self._kinds[key] = _Kind(now, 0, 0)
        if kind.written >= REPEATS_MAX:
            kind.held_back += 1
            raise structlog.DropEvent
        kind.written += 1
        return line

    def _key(self, line: Line) -> tuple[str, ...]:
        told = (str(line.get(name, "")) for name in (*self._TELLING, *self._TELLING_TOO))
        same = (self._CHANGING.sub("#", text) for text in told)
        return (str(line["level"]), str(line["event"]), *same)

    def _tell_ended(self, out: logging.Logger, now: float) -> None:
        # A clock that was set back ends a minute too: nothing is held back for longer than said.
        ended = [key for key, kind in self._kinds.items() if not 0 <= now - kind.since < REPEATS_S]
        for key in ended:
            self._tell(out, key, now)

    def _tell(self, out: logging.Logger, key: tuple[str, ...], now: float) -> None:
        kind = self._kinds.pop(key)
        if not kind.held_back:
            return
        level, event, *told = key
        names = (*self._TELLING, *self._TELLING_TOO)
        line = {
            "ts": stamp(now),
            "level": _shown(level),
            "msg": event,
            **{name: text for name, text in zip(names, told, strict=True) if text},
            "held_back": kind.held_back,
            "since": stamp(kind.since),
        }
        out.log(logging.getLevelNamesMapping()[level.upper()], self._write(out, level, line))
