"""`warmbench calibrate` as a user meets it: files, URLs, and the overlay in use."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from sim.calibrate import COUNT, QUERY, SUM
from sim.cli import app
from sim.cloud_numbers import CloudNumbers

LABELS = '{api="AttachNetworkInterface",error="false",status="200"}'
SCRAPE = f"{SUM}{LABELS} 90000\n{COUNT}{LABELS} 100\n"
ANSWER = json.dumps(
    {
        "status": "success",
        "data": {
            "resultType": "vector",
            "result": [
                {
                    "metric": {"__name__": name, "api": "AttachNetworkInterface"},
                    "value": [0, value],
                }
                for name, value in ((SUM, "90000"), (COUNT, "100"))
            ],
        },
    }
)


def run(*words: str, code: int = 0) -> tuple[str, str]:
    """Run the command; return output and errors."""
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["calibrate", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code
    return done.stdout, done.stderr


class Serving(BaseHTTPRequestHandler):
    """A node at /metrics, a Prometheus server behind a path, and nothing elsewhere."""

    def do_GET(self) -> None:
        """Answer."""
        url = urlsplit(self.path)
        asked = parse_qs(url.query).get("query")
        bodies = {"/metrics": SCRAPE, "/prometheus/api/v1/query": ANSWER}
        body = bodies.get(url.path, "")
        found = bool(body) and (asked == [QUERY] or url.path == "/metrics")
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served() -> Iterator[str]:
    """Serve on a free port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Serving) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_file_becomes_an_overlay_that_commands_take(tmp_path: Path) -> None:
    """The mean is 900 ms of 100 calls; the file written loads, and another command runs with it."""
    source, out = tmp_path / "metrics.txt", tmp_path / "mine.toml"
    source.write_text(SCRAPE)
    told, errors = run(str(source), "--out", str(out))

    line = next(line for line in told.splitlines() if line.startswith("AttachNetworkInterface"))
    assert max(map(len, told.splitlines())) <= 80
    assert "100" in line
    assert "900 ms" in line
    assert "438 ms" in line
    assert "1 latency in" in errors
    assert "# 100 calls; cv as shipped" in out.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.txt", "mine.toml"}
    shipped = CloudNumbers.load().latencies["AttachNetworkInterface"]
    loaded = CloudNumbers.load(out).latencies["AttachNetworkInterface"]
    assert loaded.median_s == pytest.approx(shipped.median_s * 900 / 438)
    words = ["plan", "--nodes", "1", "--instance", "m5.large", "--pods", "1"]
    done = CliRunner().invoke(app, [*words, "--subnet", "10.0.0.0/24", "--numbers", str(out)])
    assert done.exit_code == 0


@pytest.mark.parametrize("path", ["/metrics", "/prometheus", "/prometheus/api/v1/query"])
def test_nodes_and_servers_are_asked_over_http(path: str) -> None:
    """A node at /metrics, a Prometheus server with its query: both give the same figure."""
    with served() as base:
        rows = [json.loads(line) for line in run(base + path, "--format", "json")[0].splitlines()]
    (found,) = [row for row in rows if row["samples"]]
    assert (found["api"], found["samples"], found["mean_s"]) == ("AttachNetworkInterface", 100, 0.9)
    assert found["shipped_mean_s"] == 0.438


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """Nobody there, no such page, a folder, bytes, no folder for the output: nothing is written."""
    (tmp_path / "gz").write_bytes(b"\x1f\x8b\x08\x00\xff")
    (tmp_path / "ok").write_text(SCRAPE)
    with served() as base:
        missing = f"{base}/elsewhere"
        with pytest.raises(ValueError, match="elsewhere: answered 404 Not Found"):
            run(missing)
    for words, says in (
        ([base], "not reached: .*refused"),
        ([str(tmp_path)], "is a folder"),
        ([str(tmp_path / "gz")], "not text in UTF-8"),
        ([str(tmp_path / "none")], "No such file"),
        (["http://me:secret@127.0.0.1:1/metrics"], "leave user and password out"),
        ([str(tmp_path / "ok"), "--out", str(tmp_path / "x" / "y.toml")], "there is no folder"),
        ([str(tmp_path / "ok"), "--samples", "101", "--out", str(tmp_path / "y")], "too few calls"),
    ):
        with pytest.raises((ValueError, OSError), match=says) as refused:
            run(*words)
        assert "secret" not in str(refused.value)
        assert "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gz", "ok"]
