"""The command that measures: calibrate."""

import datetime as dt
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim import cli_options as opt
from sim.tables import NONE, number

if TYPE_CHECKING:
    from sim.calibrate import Fit

TEXT_MAX = 64 * 2**20
"""A node's scrape has about 100 kB; a server's answer a few hundred bytes a node and call."""

TIMEOUT_S = 30.0
COLUMNS = (
    "api",
    "samples",
    "series",
    "mean_s",
    "cv",
    "shipped_mean_s",
    "shipped_cv",
    "mean_fitted",
    "cv_fitted",
    "why",
)


def calibrate(
    metrics: Annotated[
        str,
        typer.Argument(
            help="A file with a node's /metrics, that URL (http://NODE:61678/metrics), or the URL"
            " of a Prometheus server.",
            metavar="METRICS",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="TOML file to write, for --numbers of other commands."),
    ] = None,
    samples_min: Annotated[
        int,
        typer.Option("--samples", help="Calls a figure needs, else the shipped one stays.", min=1),
    ] = 30,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Fit EC2's latencies to what your nodes measured.

    Reads awscni_aws_api_latency_ms of amazon-vpc-cni-k8s, or of our own daemon: the mean of the
    calls that succeeded, and their spread where there are quantiles. Figures with too few calls
    behind them stay as shipped.
    """
    from sim import calibrate as fitting

    if out is not None and not out.absolute().parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.absolute().parent}")
    text, origin = _read(metrics)
    fits = fitting.fit(fitting.parse(text, origin), origin, samples_min=samples_min)
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    written = fitting.overlay(fits, origin, today) if out is not None else ""
    _print(fits, output)
    told = [one for one in fits if one.mean_fitted]
    if out is None:
        opt.warn([] if told else [f"{origin}: too few calls behind every figure"])
        return
    draft = out.with_name(f".{out.name}.draft")
    try:
        draft.write_text(written, encoding="utf-8")
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    again = opt.quoted(["--numbers", str(out)])
    what = "1 latency" if len(told) == 1 else f"{len(told)} latencies"
    typer.echo(f"{what} in {out}; use them with {again}", err=True)


def _print(fits: "tuple[Fit, ...]", output: opt.Format) -> None:
    if output is opt.Format.JSON:
        for one in fits:
            typer.echo(json.dumps({name: getattr(one, name) for name in COLUMNS}))
        return
    if output is opt.Format.CSV:
        rows = [tuple(getattr(one, name) for name in COLUMNS) for one in fits]
        opt.print_rows(rows, COLUMNS, output)
        return
    rows = [
        (
            one.api,
            one.samples,
            _milliseconds(one.mean_s),
            _milliseconds(one.shipped_mean_s),
            NONE if one.cv is None else f"{one.cv:.2f}",
            _kept(one),
        )
        for one in fits
    ]
    opt.print_rows(rows, ("call", "samples", "mean", "shipped", "cv", "kept"), output)
    typer.echo("\nkept: as shipped, for want of calls or of quantiles")


def _kept(one: "Fit") -> str:
    """Say what stays as shipped, in a word."""
    if one.shipped_mean_s is None:
        return "not used"
    kept = [] if one.mean_fitted else ["mean"]
    return ", ".join(kept + ([] if one.cv_fitted else ["cv"])) or NONE


def _milliseconds(value_s: float | None) -> str:
    return NONE if value_s is None else f"{number(1000 * value_s)} ms"


# Where the text comes from.


def _read(metrics: str) -> tuple[str, str]:
    """Return a file's or an answer's text and a name for it, without a password."""
    url = urllib.parse.urlsplit(metrics)
    if url.scheme not in ("http", "https") or not url.netloc:
        path = Path(metrics)
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file with a node's /metrics, or a URL")
        with path.open("rb") as file:
            return _decoded(file.read(TEXT_MAX + 1), str(path)), str(path)
    shown = url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()
    if url.username or url.password:
        raise ValueError(f"{shown}: leave user and password out; save the answer to a file instead")
    return _decoded(_fetched(_asked(url), shown), shown), shown


def _asked(url: urllib.parse.SplitResult) -> str:
    """Return the URL to ask: a node's as it is, a Prometheus server's with the query."""
    from sim.calibrate import QUERY

    if url.path.rstrip("/").endswith("/metrics"):
        return url.geturl()
    base = url.path.rstrip("/").removesuffix("/api/v1/query")
    query = urllib.parse.urlencode({"query": QUERY})
    return url._replace(path=f"{base}/api/v1/query", query=query, fragment="").geturl()


def _fetched(url: str, shown: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - http alone
            text: bytes = answer.read(TEXT_MAX + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(f"{shown}: answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        hint = "; save the scrape to a file" if isinstance(error.reason, ssl.SSLError) else ""
        raise ValueError(f"{shown}: not reached: {error.reason}{hint}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{shown}: not read: {error}") from None
    return text


def _decoded(text: bytes, origin: str) -> str:
    if len(text) > TEXT_MAX:
        raise ValueError(f"{origin}: larger than {TEXT_MAX // 2**20} MiB; keep awscni_ lines alone")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"{origin}: not text in UTF-8: a scrape, or JSON, not compressed"
        ) from None
