"""The JUnit file: its structure, what fails in it, and that it is written whole or not at all."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from cni.allocator.allocator import Allocator
from sim import cli, regress, regress_report
from sim import suite as suites

SMALL = """
[[scenario]]
name = "small <&> \\"quoted\\""
behaviours = ["upstream", "native"]
max_enis = 3
ips_per_eni = 4
subnets = ["10.0.0.0/24"]
cold = true
trace = { shape = "scale", pods = 6, ramp_s = 0, hold_s = 200, rest_s = 60, repeats = 1 }
"""
UPSTREAM, NATIVE = 'small <&> "quoted" (upstream)', 'small <&> "quoted" (native)'

# Jenkins' junit-10.xsd: which attributes an element must and may have, and its children.
STRUCTURE: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"time", "skipped"},
        {"properties", "testcase"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": ({"name", "classname", "time"}, set(), {"failure", "error", "system-out"}),
    "failure": ({"message", "type"}, set(), set()),
    "error": ({"message", "type"}, set(), set()),
    "system-out": (set(), set(), set()),
}
TIME = re.compile(r"[0-9]+\.[0-9]{3}")


def assert_is_junit(root: ET.Element) -> None:
    """Hold a document against the structure that readers take, and its totals against itself."""
    for element in root.iter():
        needed, allowed, children = STRUCTURE[element.tag]
        assert needed <= element.attrib.keys() <= needed | allowed, element.tag
        assert {child.tag for child in element} <= children, element.tag
        assert TIME.fullmatch(element.attrib.get("time", "0.000")), element.attrib
    (listed,) = root
    for element in (root, listed):
        assert int(element.attrib["tests"]) == len(root.findall(".//testcase"))
        assert int(element.attrib["failures"]) == len(root.findall(".//failure"))
        assert int(element.attrib["errors"]) == len(root.findall(".//error"))


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Write a suite of one small scenario under two behaviours, with its baseline."""
    path = tmp_path / "suite.toml"
    path.write_text(SMALL)
    save(path)
    return path


def save(path: Path, **factors: float) -> None:
    """Write the baseline, with figures under upstream multiplied; dots are written __."""
    loaded = suites.load(path)
    figures = {case.name: dict(regress.measure(case)) for case in loaded.cases}
    for figure, factor in factors.items():
        figures[UPSTREAM][figure.replace("__", ".")] *= factor  # type: ignore[operator]
    regress.save_baseline(regress.baseline_beside(path), figures, loaded)


def gate(suite: Path, *words: str) -> tuple[int, dict[str, ET.Element]]:
    """Run the command; return its exit code and the test cases it wrote, by name."""
    file = suite.with_name("regress.xml")
    result = CliRunner().invoke(cli.app, ["regress", str(suite), "--junit", str(file), *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    root = ET.fromstring(file.read_bytes())  # noqa: S314 - we have just written it
    assert_is_junit(root)
    return result.exit_code, {case.attrib["name"]: case for case in root.iter("testcase")}


def test_when_all_is_well_each_case_passes(suite: Path) -> None:
    """One test case for each run, none with anything in it; no draft is left."""
    code, cases = gate(suite)
    assert code == 0
    assert list(cases) == [UPSTREAM, NATIVE]
    assert all(len(case) == 0 for case in cases.values())
    assert {path.name for path in suite.parent.iterdir()} == {
        "suite.toml",
        "suite.baseline.json",
        "regress.xml",
    }


def test_what_is_worse_fails_with_its_table(suite: Path) -> None:
    """The failure's message names figure and numbers, its text is the readable table."""
    save(suite, wait_s__max=0.5)
    code, cases = gate(suite)
    assert code == 1
    (failure,) = cases[UPSTREAM]
    assert failure.tag == "failure"
    assert failure.attrib["type"] == "worse"
    assert "worse" in failure.attrib["message"]
    assert re.search(
        r"wait_s\.max +[\d.]+ +[\d.]+ +\+[\d.]+ \(\+100\.0%\) +worse", failure.text or ""
    )
    assert len(cases[NATIVE]) == 0


def test_what_is_better_is_told_and_passes(suite: Path) -> None:
    """In system-out: readers show it and count the case as passed."""
    save(suite, wait_s__max=2)
    code, cases = gate(suite)
    assert code == 0
    (told,) = cases[UPSTREAM]
    assert told.tag == "system-out"
    assert "better" in (told.text or "")


def test_a_broken_run_is_an_error(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the auditor says may hold anything: characters that XML forbids are replaced."""

    def fail(*_: object) -> None:
        raise AssertionError("two pods \x1b hold 10.0.0.7")

    monkeypatch.setattr(Allocator, "check", fail)
    code, cases = gate(suite)
    assert code == 1
    (error,) = cases[NATIVE]
    assert error.tag == "error"
    assert error.attrib["message"] == "broken: two pods \N{REPLACEMENT CHARACTER} hold 10.0.0.7"


def test_a_scenario_that_is_gone_or_new_fails_by_name(suite: Path) -> None:
    """What is in one of suite and baseline alone has a test case too."""
    suite.write_text(SMALL.replace("small", "other"))
    code, cases = gate(suite)
    assert code == 1
    kinds = {name: case[0].attrib["type"] for name, case in cases.items()}
    assert kinds == {
        UPSTREAM.replace("small", "other"): "new",
        NATIVE.replace("small", "other"): "new",
        UPSTREAM: "gone",
        NATIVE: "gone",
    }


def test_the_wall_clock_has_its_test_case(suite: Path) -> None:
    """Measured but not in the baseline is new, and says so."""
    code, cases = gate(suite, "--wall-clock")
    assert code == 1
    (failure,) = cases[regress.WALL_CLOCK]
    assert failure.attrib["type"] == "new"


def test_a_file_that_cannot_be_written_keeps_the_old_one(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing, and no draft."""
    file = suite.with_name("regress.xml")
    file.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        gate(suite)
    assert file.read_text() == "before"
    assert len(list(suite.parent.iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--junit", "none/r.xml"], "there is no folder none"),
        (["--junit", "/"], "that is a folder"),
        (["--junit", "r.xml", "--update"], "name one of them"),
    ],
)
def test_a_place_that_will_not_do_is_refused_before_anything_runs(
    suite: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    """Nobody waits for a suite to hear it."""
    monkeypatch.chdir(suite.parent)
    monkeypatch.setattr(regress, "measure_all", None)
    result = CliRunner().invoke(cli.app, ["regress", str(suite), *words])
    assert isinstance(result.exception, ValueError)
    assert told in str(result.exception)


def test_the_text_keeps_names_whole_and_columns_straight() -> None:
    """A page without a terminal has no edge: the longest figure is on one line."""
    longest = "ec2_calls.ModifyNetworkInterfaceAttribute"
    changes = [
        regress.Change("a (native)", longest, 3, 1234567, "worse"),
        regress.Change("a (native)", "wait_s.p99", 0.0, 0.5, "worse"),
        regress.Change("b (native)", regress.WHOLE_RUN, None, None, "gone", "not in the suite"),
    ]
    lines = regress_report.text(changes).splitlines()
    assert lines[0] == "a (native)"
    assert longest in lines[2]
    assert [line.index("worse") for line in lines[2:4]] == [lines[1].index("status")] * 2
    assert lines[-1] == "b (native): gone: not in the suite"
