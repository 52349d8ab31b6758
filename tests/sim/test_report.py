"""The report is one file that stands alone, says what counts, and trusts no name."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from sim import metrics, report, tables, verdict
from sim.record import NAN, Recorder, RunHeader, RunRecord

HOSTILE = '<script>alert("$x$")</script> & "trace" \'s'


def record(warm: int = 2, *, trace: str = "by hand", cidr: str = "10.0.0.0/24") -> RunRecord:
    """Record 40 pods of one node; those beyond the warm addresses are refused once."""
    recorder = Recorder(40)
    recorder.pool(0.0, 0, 1, 40 + warm, 40 + warm)
    for pod in range(40):
        late = pod % 10 >= 5 * warm
        recorder.node[pod] = 0
        recorder.added_at[pod] = 10.0 * pod
        recorder.served_at[pod] = 10.0 * pod + 12.5 * late
        recorder.released_at[pod] = 10.0 * pod + 60.0 if pod < 30 else NAN
        if late:
            recorder.refuse(10.0 * pod, 0, pod, "pool_empty")
    for at in range(0, 400, 20 * warm):
        error = "RequestLimitExceeded" if at == 80 else ""
        recorder.call(0, "AssignPrivateIpAddresses", float(at), at + 0.4, error)
        recorder.subnet(float(at), 0, 200 - at // 4, 9 - at // 50)
    header = RunHeader(
        behaviour="upstream",
        settings={"WARM_IP_TARGET": str(warm), "IP_COOLDOWN_PERIOD": "30"},
        instance="m5.large",
        nodes=("node-0",),
        subnets=(cidr, "10.1.0.0/24"),
        seed=7,
        trace_origin=trace,
        trace_notes=("Two pods had no departure.",),
        pods=40,
        end_s=400.0,
        cooldown_s=30.0,
        warnings=("A warning to be seen.",),
        scenario={"placement": "spread"},
    )
    return recorder.finish(header, np.arange(40.0) * 10.0)


class Page(HTMLParser):
    """Collects a page's text, tags and attributes, and checks that its tags balance."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, html: str) -> None:
        """Parse a page."""
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that opens."""
        self.tags.append(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that closes itself."""
        self.tags.append(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        """Check that the tag that closes is the one that opened last."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")


def written(runs: RunRecord | tuple[RunRecord, RunRecord], path: Path) -> str:
    """Write a report and return it."""
    report.write_report(runs, path)
    return path.read_text(encoding="utf-8")


def test_report_of_one_run_says_what_counts(tmp_path: Path) -> None:
    """Headline, warnings, notes, settings with meanings, seed, trace and the command to repeat."""
    run = record(1)
    page = Page(written(run, tmp_path / "run.html"))
    first, _, rest = tables.headline(metrics.summarise(run)).partition("; ")
    assert first in page.text
    assert rest[1:] in page.text
    again = (
        "warmbench replay 'by hand' --instance m5.large --nodes 1 --subnet 10.0.0.0/24 "
        "--subnet 10.1.0.0/24 --seed 7 --behaviour upstream --set WARM_IP_TARGET=1"
    )
    for said in (
        again,
        "A warning to be seen.",
        "Two pods had no departure.",
        tables.SETTINGS["WARM_IP_TARGET"],
        tables.CAUSES["pool_empty"],
        "upstream",
        "spread",
    ):
        assert said in page.text
    assert page.tags.count("svg") == 5  # four plots, one of them in two widths


def test_report_of_two_runs_opens_with_the_verdict(tmp_path: Path) -> None:
    """The verdict, its reasons and its rules come before any figure."""
    runs = (record(1), record(2))
    page = Page(written(runs, tmp_path / "compare.html"))
    a, b = (metrics.summarise(run) for run in runs)
    judged = verdict.verdict(a, b)
    assert judged.winner == "b"
    assert page.text.index(judged.headline) < page.text.index("Figure by figure")
    for said in (*judged.reasons, *verdict.rules(verdict.Slo()), "WARM_IP_TARGET=1"):
        assert said in page.text
    for row in tables.comparison(a, b):
        assert row.label.strip() in page.text
    assert page.tags.count("svg") == 8
    assert "warmbench compare 'by hand'" in page.text
    assert "--a WARM_IP_TARGET=1 --b WARM_IP_TARGET=2" in page.text


def test_facts_that_differ_name_both_runs(tmp_path: Path) -> None:
    """Two behaviours are both shown, and each run gets a command of its own."""
    native = record()
    native = dataclasses.replace(
        native, header=dataclasses.replace(native.header, behaviour="native")
    )
    page = Page(written((record(), native), tmp_path / "compare.html"))
    assert "upstream (A), native (B)" in page.text
    assert page.text.count("warmbench replay") == 2


@pytest.mark.parametrize("both", [False, True])
def test_report_stands_alone(tmp_path: Path, *, both: bool) -> None:
    """Nothing is fetched: no address, script, import or font; references stay in the page."""
    html = written((record(1), record(2)) if both else record(), tmp_path / "report.html")
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert "@font-face" not in html
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert not [value for name, value in page.attributes if name in {"src", "srcset"}]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', html))
    assert {one or other for one, other in referred} <= set(ids)
    assert len(html) < 2_000_000


def test_plots_follow_the_scheme(tmp_path: Path) -> None:
    """No stand-in colour is left, every variable a plot uses is defined, in both schemes."""
    html = written(record(), tmp_path / "run.html")
    assert not re.search(r"#c5..5c", html)
    used = set(re.findall(r"var\((--\w+)\)", html))
    light, dark = html.split("prefers-color-scheme: dark", 1)
    for scheme in (light, dark.split("body {")[0]):
        assert used <= set(re.findall(r"(--\w+):", scheme))
    assert "fill: #" not in html.replace("fill: #000000", "")


@pytest.mark.parametrize("both", [False, True])
def test_names_from_outside_are_escaped(tmp_path: Path, *, both: bool) -> None:
    """A trace and a subnet can have any name without becoming markup or a formula."""
    one = record(trace=HOSTILE, cidr="$\\frac{1}$ <b>")
    html = written((one, record(1, trace=HOSTILE)) if both else one, tmp_path / "report.html")
    assert "<script" not in html
    assert HOSTILE in Page(html).text
    assert "$\\frac{1}$ <b>" in Page(html).text


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    """No date, no random id; a reader's own matplotlib style changes nothing."""
    one = written(record(), tmp_path / "one.html")
    with rc_context({"axes.facecolor": "black", "font.size": 30.0, "svg.fonttype": "path"}):
        other = written(record(), tmp_path / "other.html")
    assert one == other


def test_report_of_nothing(tmp_path: Path) -> None:
    """A run without pods, calls or time is reported as that."""
    header = RunHeader("native", {}, "m5.large", (), ("10.0.0.0/24",), 1, "", (), 0, 0.0, 30.0)
    empty = Recorder(0).finish(header, np.zeros(0))
    page = Page(written(empty, tmp_path / "run.html"))
    assert "No pod asked for an address." in page.text
    for said in ("No pod asked.", "No EC2 call was made.", "No subnet was touched."):
        assert said in page.text
    assert "It makes no difference" in Page(written((empty, empty), tmp_path / "two.html")).text


def test_many_subnets_leave_the_lowest_in_colour() -> None:
    """Of seven subnets the four that ran lowest are striking, the others quiet."""
    recorder = Recorder(0)
    for index in range(7):
        recorder.subnet(0.0, index, 100 - 10 * index, 3)
    cidrs = tuple(f"10.0.{index}.0/24" for index in range(7))
    header = RunHeader("native", {}, "m5.large", (), cidrs, 1, "", (), 0, 60.0, 30.0)
    axes = report.plot_subnets(recorder.finish(header, np.zeros(0)))
    colors = {str(line.get_label()): line.get_color() for line in axes.get_lines()}
    assert [colors[cidr] for cidr in reversed(cidrs[3:])] == list(report.LIGHT.lines)
    assert {colors[cidr] for cidr in cidrs[:3]} == {report.LIGHT.quiet}


def test_plots_draw_on_axes_of_ones_own() -> None:
    """In a notebook a plot takes Axes and returns them, or makes its own."""
    own = Figure().add_subplot()
    assert report.plot_addresses(record(), own, node="node-0") is own
    assert own.get_legend_handles_labels()[1] == list(report.BANDS)
    for plot in (report.plot_waits, report.plot_calls, report.plot_subnets):
        axes = plot(record(), palette=report.DARK)
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_address_plot_stacks_the_bands() -> None:
    """The top of the stack is held + primary: at the start 42 addresses and one ENI."""
    axes = report.plot_addresses(record())
    heights = [np.asarray(band.get_paths()[0].vertices)[:, 1] for band in axes.collections]
    assert heights[-1].max() == pytest.approx(43.0)
    assert axes.get_xlabel() == "minutes"


def test_wait_plot_shows_who_did_not_wait() -> None:
    """Half of the pods did not wait; the curve starts at the other half and ends at 12.5 s."""
    axes = report.plot_waits(record(1))
    assert axes.get_title(loc="left") == "50 % of pods did not wait"
    curve = axes.get_lines()[0].get_xydata()
    assert np.asarray(curve)[0].tolist() == [0.1, 0.5]
    assert np.asarray(curve)[-1, 0] == 12.5
