"""The CI gate: exact figures, told apart, and the committed suite against its baseline."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cni.allocator import behaviour as behaviours
from cni.cloud import recipes
from cni.cloud.calls import DescribeInstances
from sim import cli, regress

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "benchmarks" / "suite.toml"

SMALL = """
[[scenario]]
name = "small"
behaviours = ["upstream"]
max_enis = 3
ips_per_eni = 4
subnets = ["10.0.0.0/24"]
settings = { WARM_IP_TARGET = 1, MINIMUM_IP_TARGET = 2 }
cold = true
seed = 3
trace = { shape = "scale", pods = 6, ramp_s = 30, hold_s = 200, rest_s = 60, repeats = 1 }
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Write a suite of one small scenario, with its baseline."""
    path = tmp_path / "suite.toml"
    path.write_text(SMALL)
    figures = {case.name: regress.measure(case) for case in regress.load_suite(path)}
    regress.save_baseline(regress.baseline_beside(path), figures, path)
    return path


def gate(*words: object) -> tuple[int, str]:
    """Run the command; return its exit code and all it printed."""
    result = CliRunner().invoke(cli.app, ["regress", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_committed_suite_is_as_good_as_its_baseline() -> None:
    """This is the gate itself: no figure of the committed scenarios got worse."""
    code, output = gate(SUITE)
    assert code == 0, output


def test_an_unchanged_suite_passes_and_says_so(suite: Path) -> None:
    """The same code gives the same figures."""
    code, output = gate(suite)
    assert code == 0
    assert "figures of 1 scenarios are as in" in output


def test_a_later_refill_is_caught(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool loop that looks a second later makes pods wait longer: exit 1, with the figure."""
    slower = replace(behaviours.UPSTREAM, tick_s=6.0)
    monkeypatch.setitem(behaviours.PRESETS, "upstream", slower)
    code, output = gate(suite)
    assert code == 1
    assert "wait_s" in output
    assert "worse" in output


def test_one_more_call_per_refill_is_caught(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EC2 call more for each refill shows by its API's name."""
    original = recipes._add_blocks

    def chatty(*arguments: object) -> object:
        yield DescribeInstances()
        return (yield from original(*arguments))  # type: ignore[arg-type]

    monkeypatch.setattr(recipes, "_add_blocks", chatty)
    code, output = gate(suite, "--format", "json")
    assert code == 1
    told = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert {one["figure"]: one["status"] for one in told}["ec2_calls.DescribeInstances"] == "worse"


def test_an_improvement_passes_and_offers_to_keep_it(suite: Path) -> None:
    """Better figures are listed and do not fail."""
    path = regress.baseline_beside(suite)
    stored = json.loads(path.read_text())
    (figures,) = stored["figures"].values()
    figures["wait_s.max"] += 5
    figures["served_at_once"] /= 2
    path.write_text(json.dumps(stored))
    code, output = gate(suite)
    assert code == 0
    assert "better" in output
    assert "--update" in output


def test_a_tolerance_accepts_that_much(suite: Path) -> None:
    """A share of the baseline's value either way is no difference."""
    path = regress.baseline_beside(suite)
    stored = json.loads(path.read_text())
    (figures,) = stored["figures"].values()
    figures["addresses.held.mean"] *= 0.97
    path.write_text(json.dumps(stored))
    assert gate(suite)[0] == 1
    suite.write_text(SMALL + 'tolerance = { "addresses.held.mean" = 0.05 }\n')
    code, output = gate(suite)
    assert code == 0
    assert "has changed since" in output


def test_update_accepts_and_a_later_run_agrees(suite: Path) -> None:
    """What --update writes is what the next run holds; no draft is left."""
    path = regress.baseline_beside(suite)
    path.unlink()
    assert gate(suite, "--update")[0] == 0
    assert gate(suite)[0] == 0
    assert sorted(p.name for p in suite.parent.iterdir()) == ["suite.baseline.json", "suite.toml"]


def test_a_missing_baseline_tells_how_to_make_it(suite: Path) -> None:
    """Bad input is an error that names the way out, not a pass."""
    regress.baseline_beside(suite).unlink()
    with pytest.raises(regress.SuiteError, match="--update"):
        gate(suite)


def test_a_scenario_that_is_gone_or_new_fails(suite: Path) -> None:
    """A gate that quietly lost a scenario is open."""
    suite.write_text(SMALL.replace('"small"', '"other"'))
    code, output = gate(suite)
    assert code == 1
    assert "new" in output
    assert "gone" in output


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "list of"),
        ("[[scenario]\n", "not a TOML file"),
        ("x = 1\n", "list of"),
        (SMALL.replace("max_enis", "max_eni"), "did you mean max_enis"),
        (SMALL.replace('name = "small"\n', ""), "'name' is missing"),
        (SMALL.replace('["upstream"]', '["downstream"]'), "native"),
        (SMALL.replace("WARM_IP_TARGET = 1", "WARM_IP_TARGETS = 1"), "WARM_IP_TARGET"),
        (SMALL.replace("10.0.0.0/24", "10.0.0.0/99"), "10.0.0.0/99"),
        (SMALL.replace('"scale"', '"scales"'), "scale"),
        (SMALL.replace("seed = 3", "seed = -3"), "at least 0"),
        (SMALL.replace("seed = 3", "nodes = 0"), "at least 1"),
        (SMALL + 'tolerance = { "wait_s.max" = 3 }\n', "share from 0 to 1"),
        (SMALL + SMALL, "once only"),
    ],
)
def test_a_broken_suite_is_refused_whole(tmp_path: Path, text: str, told: str) -> None:
    """One clear error names the file and what is allowed, before anything runs."""
    path = tmp_path / "suite.toml"
    path.write_text(text)
    with pytest.raises(regress.SuiteError, match=r"suite\.toml") as caught:
        regress.load_suite(path)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"figures": 3, "suite": ""}'])
def test_a_broken_baseline_is_refused(suite: Path, text: str) -> None:
    """It is never taken for an empty one."""
    regress.baseline_beside(suite).write_text(text)
    with pytest.raises(regress.SuiteError, match="not a baseline"):
        gate(suite)
