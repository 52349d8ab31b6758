"""The daemon's log: its lines, its levels, where it goes, what it blanks and what it counts."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import structlog

from cni.allocator.model import SandboxKey
from cni.daemon import logs
from cni.daemon.logs import close, libraries_heard, logger, without_secrets
from cni.settings import parse

MINUTE = 60.0


class Time:
    """A wall clock that is turned by hand."""

    def __init__(self) -> None:
        self.unix = 1_700_000_000.25

    def __call__(self) -> float:
        return self.unix


class Opened:
    """A log on a file, and what is in it."""

    def __init__(self, path: Path, level: str = "Debug") -> None:
        self.path = path
        self.time = Time()
        environ = {
            "AWS_VPC_K8S_CNI_LOG_FILE": str(path),
            "AWS_VPC_K8S_CNI_LOGLEVEL": level,
        }
        self.log = logger(parse(environ, lenient=False), self.time)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    @property
    def messages(self) -> list[str]:
        return [line["msg"] for line in self.lines]


@contextmanager
def opened(path: Path, level: str = "Debug") -> Iterator[Opened]:
    """Open a log on a file, and close it."""
    log = Opened(path, level)
    try:
        yield log
    finally:
        close(log.log)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a path for a log in a folder that is not there yet."""
    return tmp_path / "logs" / "ipamd.log"


# Lines.


def test_a_line_is_one_object_with_upstreams_keys_first(file: Path) -> None:
    """An action is one line: when, what, why, its outcome and its duration."""
    with opened(file) as log:
        log.log.bind(instance="i-0abc").info(
            "action", action="AddBlocks", why="2 short", seconds=1.25, outcome="eni-0a 2", msg="no"
        )

    (line,) = file.read_text().splitlines()
    assert list(json.loads(line).items()) == [
        ("ts", "2023-11-14T22:13:20.250Z"),
        ("level", "info"),
        ("msg", "action"),
        ("instance", "i-0abc"),
        ("action", "AddBlocks"),
        ("why", "2 short"),
        ("seconds", 1.25),
        ("outcome", "eni-0a 2"),
    ]


def test_values_of_any_type_are_written(file: Path) -> None:
    """A value that JSON does not know is written as its text, and no line can fail."""
    with opened(file) as log:
        log.log.info(
            "x",
            address=IPv4Address("10.0.0.1"),
            sandbox=SandboxKey("n", "c", "eth0"),
            nested={"deep": [IPv4Address("10.0.0.2"), None, True]},
            odd="line\nbreak \u2028 \udcff",
        )

    (line,) = log.lines
    assert line["address"] == "10.0.0.1"
    assert line["sandbox"] == "SandboxKey(network='n', container_id='c', ifname='eth0')"
    assert line["nested"] == {"deep": ["10.0.0.2", None, True]}
    assert line["odd"] == "line\nbreak \u2028 \udcff"


def test_an_exception_has_its_traceback_in_the_line(file: Path) -> None:
    """One line still, and nothing raised to whoever logs."""
    with opened(file) as log:
        try:
            raise ValueError("what broke")  # noqa: TRY301 - it is what is logged
        except ValueError:
            log.log.exception("action broke", action="AttachEni")

    (line,) = log.lines
    assert (line["level"], line["msg"], line["action"]) == ("error", "action broke", "AttachEni")
    assert "ValueError: what broke" in line["exception"]


def test_a_long_value_is_cut(file: Path) -> None:
    """What a caller sends cannot fill the disk with one line."""
    with opened(file) as log:
        log.log.info("x", stdin="a" * 1_000_000)

    assert len(log.lines[0]["stdin"]) == logs.TEXT_MAX + 1


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("Debug", ["debug", "info", "warn", "error", "fatal"]),
        ("Info", ["info", "warn", "error", "fatal"]),
        ("Warn", ["warn", "error", "fatal"]),
        ("Error", ["error", "fatal"]),
        ("Fatal", ["fatal"]),
    ],
)
def test_the_level_decides_what_is_written(file: Path, level: str, written: list[str]) -> None:
    """Each of upstream's levels writes itself and what is worse, by upstream's names."""
    with opened(file, level) as log:
        for write in (log.log.debug, log.log.info, log.log.warning, log.log.error):
            write("x")
        log.log.critical("x")

    assert [line["level"] for line in log.lines] == written


# Where it goes.


def test_the_file_is_made_with_its_folders_and_is_roots_alone(file: Path) -> None:
    """A fresh node has no folder for logs."""
    with opened(file) as log:
        log.log.info("x")

    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_log_may_go_to_a_standard_stream(
    stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stream that is named gets the line, and closing the log leaves it open."""
    log = logger(parse({"AWS_VPC_K8S_CNI_LOG_FILE": stream}, lenient=False), Time())
    log.info("here")
    close(log)

    assert not getattr(sys, stream).closed
    taken = capsys.readouterr()
    mine, other = (taken.out, taken.err) if stream == "stdout" else (taken.err, taken.out)
    assert json.loads(mine)["msg"] == "here"
    assert other == ""


def test_a_file_that_cannot_be_written_is_replaced_by_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first line warns with the file and the reason; the daemon starts."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "ipamd.log"

    log = logger(parse({"AWS_VPC_K8S_CNI_LOG_FILE": str(path)}, lenient=False), Time())
    log.info("on")
    close(log)

    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["msg"]) == ("warn", "the log goes to standard error")
    assert (first["file"], first["error"]) == (str(path), f"{path.parent}: File exists")
    assert second["msg"] == "on"


def test_a_full_file_makes_room(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MB and five old files, here in small; every one is root's alone."""
    assert (logs.FILE_BYTES_MAX, logs.FILES_KEPT) == (100 * 1024 * 1024, 5)
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 500)
    monkeypatch.setattr(logs, "FILES_KEPT", 2)

    with opened(file) as log:
        for number in range(30):
            log.log.info("x", number=number)

    kept = sorted(file.parent.iterdir())
    assert [path.name for path in kept] == ["ipamd.log", "ipamd.log.1", "ipamd.log.2"]
    assert all(path.stat().st_size <= 500 for path in kept)
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert log.lines[-1]["number"] == 29


def test_a_disk_that_fails_is_told_once_and_harms_nobody(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk must not refuse pods; standard error has one line about it, no traceback."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    with opened(file) as log:
        (handler,) = log.log.handlers
        handler.stream.close()
        handler.stream = Full()
        log.log.info("lost")
        log.log.info("lost too")
        handler.stream = io.StringIO()

    assert capsys.readouterr().err == (
        "aws-k8s-agent: lines of the log are lost: [Errno 28] No space left on device\n"
    )


# Nothing global.


def test_nothing_global_is_configured(file: Path) -> None:
    """Structlog's defaults and logging's tree are as before; two logs share nothing."""
    names = set(logging.Logger.manager.loggerDict)
    handlers = list(logging.getLogger().handlers)
    other = file.with_name("other.log")

    with opened(file) as log, opened(other, "Error") as quiet:
        log.log.info("one")
        quiet.log.info("none")
        quiet.log.error("two")

    assert not structlog.is_configured()
    assert set(logging.Logger.manager.loggerDict) == names
    assert logging.getLogger().handlers == handlers
    assert (log.messages, quiet.messages) == (["one"], ["two"])


def test_what_libraries_warn_of_is_heard_for_as_long_as_asked(file: Path) -> None:
    """Asyncio tells of a lost exception by logging alone; afterwards the root is as before."""
    library = logging.getLogger("asyncio")
    before = list(logging.getLogger().handlers)

    with opened(file) as log:
        with libraries_heard(log.log):
            library.warning("Executing %s took %d seconds", "x", 3)
            library.info("nobody's business")
            library.error("Task exception was never retrieved", exc_info=ValueError("lost"))
        library.warning("not heard")

    warning, error = log.lines
    assert (warning["level"], warning["library"]) == ("warn", "asyncio")
    assert warning["said"] == "Executing x took 3 seconds"
    assert (error["level"], error["said"]) == ("error", "Task exception was never retrieved")
    assert "ValueError: lost" in error["exception"]
    assert logging.getLogger().handlers == before


# Secrets.


@pytest.mark.parametrize(
    ("text", "blanked"),
    [
        ("https://joe:hunter2@proxy:3128/x", "https://***@proxy:3128/x"),
        ("key AKIAIOSFODNN7EXAMPLE is used", "key *** is used"),
        ("{'SecretAccessKey': 'wJalr/XUtn=FEMI'}", "{'SecretAccessKey': '***'}"),
        ('{"SessionToken": "abc=="}', '{"SessionToken": "***"}'),
        ("?X-Amz-Signature=f00&X-Amz-Date=1", "?X-Amz-Signature=***&X-Amz-Date=1"),
        ("X-aws-ec2-metadata-token: AQAE", "X-aws-ec2-metadata-token: ***"),
        ("AWS4-HMAC-SHA256 Credential=x, Signature=y", "AWS4-HMAC-SHA256 ***"),
        ("10.0.0.1:443 and https://api:6443/@x", "10.0.0.1:443 and https://api:6443/@x"),
    ],
)
def test_what_looks_like_a_secret_is_blanked(text: str, blanked: str) -> None:
    """Credentials come in texts of others: errors, headers, URLs."""
    assert without_secrets(text) == blanked


def test_secrets_are_blanked_however_deep_they_lie(file: Path) -> None:
    """By the name of a field, by the look of a text, and in a traceback."""
    with opened(file) as log:
        log.log.info(
            "x",
            secret_key="s3cret",  # noqa: S106 - the secret that must not be seen
            headers={"Authorization": "s3cret", "X-Aws-Session-Token": "s3cret", "Host": "ec2"},
            urls=["http://u:s3cret@h/"],
            ENDPOINT="http://u:s3cret@h/",
            client_token="i-0abc-1",  # noqa: S106 - an idempotency token is no secret
        )
        url = "http://u:s3cret@h/"
        try:
            raise ValueError(url)  # noqa: TRY301 - it is what is logged
        except ValueError:
            log.log.exception("broke")

    assert "s3cret" not in file.read_text()
    first, second = log.lines
    assert first["headers"]["Host"] == "ec2"
    assert first["urls"] == ["http://***@h/"]
    assert first.get("client_token") == "i-0abc-1"
    assert "http://***@h/" in second["exception"]


# What repeats.


def refuse(log: Opened, container: str, error: str = "no free address: subnet_full") -> None:
    """Warn as a refused ADD does."""
    log.log.warning("command refused", command="ADD", container=container, code=11, error=error)


def test_a_storm_of_warnings_is_counted(file: Path) -> None:
    """Five are written, then they are counted, and the count comes before the next line."""
    with opened(file) as log:
        for number in range(1000):
            refuse(log, f"container-{number}")
            log.time.unix += 0.05
        assert len(log.lines) == 5

        log.time.unix += 20
        log.log.info("next")

    *_, counted, last = log.lines
    assert counted == {
        "ts": "2023-11-14T22:14:30.250Z",
        "level": "warn",
        "msg": "command refused",
        "code": "#",
        "command": "ADD",
        "error": "no free address: subnet_full",
        "held_back": 995,
        "since": "2023-11-14T22:13:20.250Z",
    }
    assert last["msg"] == "next"


def test_warnings_that_say_other_things_are_not_counted_together(file: Path) -> None:
    """Another cause is another thing; another pod, number or id is not."""
    with opened(file) as log:
        for number in range(20):
            refuse(log, "a", f"no free address after {number} s: subnet_full")
            refuse(log, "a", f"no free address after {number} s: eni_limit")
            log.log.warning("ENI not usable yet", eni="eni-0a", error="eni-0123456789abc: no link")

    assert len(log.lines) == 15


def test_after_a_minute_a_warning_is_written_again(file: Path) -> None:
    """A cause that lasts stays in sight."""
    with opened(file) as log:
        for _ in range(3):
            for _ in range(10):
                refuse(log, "a")
            log.time.unix += MINUTE

        log.log.info("end")

    counted = [line["held_back"] for line in log.lines if "held_back" in line]
    assert counted == [5, 5, 5]
    assert len(log.lines) == 3 * 5 + 3 + 1


def test_a_clock_that_is_set_back_holds_nothing_back_for_ever(file: Path) -> None:
    """Wall clocks jump; a minute then ends early."""
    with opened(file) as log:
        for _ in range(10):
            refuse(log, "a")
        log.time.unix -= 3600.0
        refuse(log, "a")

    assert [line.get("held_back") for line in log.lines] == [None] * 5 + [5, None]


def test_what_informs_is_never_held_back(file: Path) -> None:
    """One line for each action, and every traceback."""
    with opened(file) as log:
        for _ in range(20):
            log.log.info("action", action="AddBlocks")
        for _ in range(20):
            log.log.error("broke", exc_info=ValueError("x"))

    assert len(log.lines) == 40


def test_the_memory_of_warnings_is_bounded(file: Path) -> None:
    """Texts without end, each of its own kind, leave no trace behind."""
    with opened(file) as log:
        for number in range(3 * logs.KINDS_MAX):
            word = "".join(chr(ord("g") + int(digit)) for digit in str(number))
            refuse(log, "a", word)

        processors = log.log._processors
        (repeats,) = [one for one in processors if isinstance(one, logs.Repeats)]
        assert len(repeats._kinds) == logs.KINDS_MAX

    assert len(log.lines) == 3 * logs.KINDS_MAX
