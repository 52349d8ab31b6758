"""The CI gate: exact figures, planted faults, baselines, and the committed suite itself."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cni.allocator import behaviour as behaviours
from cni.allocator.allocator import Allocator
from cni.cloud import recipes
from cni.cloud.calls import DescribeInstances, Pause
from sim import cli, cli_regress, node, regress
from sim import suite as suites
from sim.cli_options import Format

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
TELLS = "small (upstream)"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Write a suite of one small scenario, with its baseline."""
    path = tmp_path / "suite.toml"
    path.write_text(SMALL)
    loaded = suites.load(path)
    figures = {case.name: regress.measure(case) for case in loaded.cases}
    regress.save_baseline(regress.baseline_beside(path), figures, loaded)
    return path


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """Write the committed suite's two shortest scenarios, with their committed figures."""
    names = ("cold-node-to-nth-address", "rolling-restart")
    tables = SUITE.read_text().split("[[scenario]]")[1:]
    kept = [one for one in tables if any(f'name = "{name}"' in one for name in names)]
    assert len(kept) == len(names)
    path = tmp_path / "part.toml"
    path.write_text("".join(f"[[scenario]]{one}" for one in kept))
    stored = regress.load_baseline(regress.baseline_beside(SUITE)).figures
    figures = {case.name: stored[case.name] for case in suites.load(path).cases}
    regress.save_baseline(regress.baseline_beside(path), figures, suites.load(path))
    return path


def gate(*words: object) -> tuple[int, str]:
    """Run the command; return its exit code and all it printed."""
    result = CliRunner().invoke(cli.app, ["regress", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def rows(*words: object) -> tuple[int, dict[tuple[str, str], dict[str, object]]]:
    """Run the command for a machine; return its exit code and the lines by (scenario, figure)."""
    code, output = gate(*words, "--format", "json")
    told = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return code, {(row["scenario"], row["figure"]): row for row in told}


def shifted(suite: Path, **factors: float) -> None:
    """Multiply figures of the stored baseline; dots of their names are written __."""
    path = regress.baseline_beside(suite)
    stored = json.loads(path.read_text())
    for figure, factor in factors.items():
        stored["figures"][TELLS][figure.replace("__", ".")] *= factor
    path.write_text(json.dumps(stored))


# The gate itself.


def test_the_committed_suite_is_as_good_as_its_baseline() -> None:
    """No figure of the committed scenarios got worse; after a change that is meant, --update.

    The wall clock is in: ratios on a busy machine stay far within their tolerance.
    """
    code, output = gate(SUITE, "--wall-clock")
    assert code == 0, output


def test_the_committed_baseline_is_of_the_committed_suite() -> None:
    """A scenario that changed without its baseline would be compared with something else."""
    stored = regress.load_baseline(regress.baseline_beside(SUITE))
    loaded = suites.load(SUITE)
    assert stored.suite == loaded.digest, "run: warmbench regress benchmarks/suite.toml --update"
    assert list(stored.figures) == [case.name for case in loaded.cases]


def test_native_is_worse_than_upstream_on_one_axis_at_most() -> None:
    """Waiting, addresses, mutating calls: native may take more addresses, and nothing else."""
    stored = regress.load_baseline(regress.baseline_beside(SUITE)).figures
    names = dict.fromkeys(name.rpartition(" ")[0] for name in stored)
    axes = ("wait_s.p99", "addresses.taken.mean", "ec2_calls.mutating")
    for name in names:
        native, upstream = stored[f"{name} (native)"], stored[f"{name} (upstream)"]
        worse = {axis for axis in axes if (native[axis] or 0) > (upstream[axis] or 0)}
        assert worse <= {"addresses.taken.mean"}, name


def test_the_cold_node_tells_its_first_and_its_fiftieth_address() -> None:
    """All pods come at zero: the longest wait is the time to the last address."""
    stored = regress.load_baseline(regress.baseline_beside(SUITE)).figures
    for behaviour in ("native", "upstream"):
        cold = stored[f"cold-node-to-nth-address ({behaviour})"]
        assert cold["served"] == 50
        assert cold["last_address_s"] == cold["wait_s.max"]
        assert 0 < (cold["first_address_s"] or 0) < (cold["last_address_s"] or 0)


def test_each_run_has_all_figures_and_two_runs_agree(part: Path) -> None:
    """In a fixed order, calls by API last."""
    for case in suites.load(part).cases:
        figures = regress.measure(case)
        assert figures == regress.measure(case)
        fixed, calls = list(figures)[: len(suites.FIGURES)], list(figures)[len(suites.FIGURES) :]
        assert fixed == list(suites.FIGURES)
        assert calls == sorted(calls)
        assert {name.removeprefix("ec2_calls.") for name in calls} <= set(suites.APIS)


# Planted faults.


def test_without_a_fault_the_gate_is_open(part: Path) -> None:
    """What the planted faults are caught by, passes without them."""
    assert gate(part)[0] == 0


@pytest.mark.parametrize(
    ("preset", "field", "where"),
    [
        ("upstream", "tick_phase_s", "cold-node-to-nth-address"),
        ("upstream", "tick_s", "cold-node-to-nth-address"),
        ("native", "gather_urgent_s", "rolling-restart"),
    ],
)
def test_looking_one_second_later_is_caught(
    part: Path, monkeypatch: pytest.MonkeyPatch, preset: str, field: str, where: str
) -> None:
    """Pods wait longer: exit 1, and the other behaviour's runs are as they were."""
    as_it_is = behaviours.PRESETS[preset]
    later = replace(as_it_is, **{field: getattr(as_it_is, field) + 1})
    monkeypatch.setitem(behaviours.PRESETS, preset, later)
    code, told = rows(part)
    assert code == 1
    row = told[f"{where} ({preset})", "wait_s.p90"]
    assert row["status"] == "worse"
    assert row["today"] > row["baseline"]  # type: ignore[operator]
    assert {scenario.rpartition(" ")[2] for scenario, _ in told} == {f"({preset})"}


@pytest.mark.parametrize("recipe", ["_add_blocks", "_attach_eni"])
def test_a_refill_one_second_slower_is_caught(
    part: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Both behaviours share the recipes, so both show it: one second, to the digit."""
    original = getattr(recipes, recipe)

    def slow(*arguments: object) -> Iterator[object]:
        yield Pause(1.0)
        return (yield from original(*arguments))

    monkeypatch.setattr(recipes, recipe, slow)
    code, told = rows(part)
    assert code == 1
    worse = {place for place, row in told.items() if row["status"] == "worse"}
    for behaviour in ("native", "upstream"):
        assert any(behaviour in scenario for scenario, _ in worse)
    if recipe == "_add_blocks":
        assert told["cold-node-to-nth-address (native)", "first_address_s"]["difference"] == 1.0


@pytest.mark.parametrize("recipe", ["_add_blocks", "_attach_eni"])
def test_one_more_call_is_caught(part: Path, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    """An EC2 call more in a recipe shows by its API's name, though the old runs had none."""
    original = getattr(recipes, recipe)

    def chatty(*arguments: object) -> Iterator[object]:
        yield DescribeInstances()
        return (yield from original(*arguments))

    monkeypatch.setattr(recipes, recipe, chatty)
    code, told = rows(part)
    assert code == 1
    row = told["cold-node-to-nth-address (native)", "ec2_calls.DescribeInstances"]
    assert (row["status"], row["baseline"]) == ("worse", 0)


def test_an_ignored_cooldown_is_caught(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods would wait less for it, but the books do not balance: a finding, and no bad input."""

    def hasty(**arguments: object) -> Allocator:
        return Allocator(**(arguments | {"cooldown_s": 0.0}))  # type: ignore[arg-type]

    monkeypatch.setattr(node, "Allocator", hasty)
    code, output = gate(part)
    assert code == 1
    assert "rolling-restart (native)" in output
    assert "broken" in output
    assert "the books do not balance at" in output
    assert "cold-node" not in output  # The other runs stand.


def test_what_the_auditor_finds_is_a_finding(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown in one row with its reason; such a run never becomes the baseline."""

    def fail(*_: object) -> None:
        raise AssertionError("two pods\nhold 10.0.0.7")

    monkeypatch.setattr(Allocator, "check", fail)
    code, told = rows(suite)
    assert code == 1
    assert told[TELLS, regress.WHOLE_RUN]["status"] == "broken"
    assert told[TELLS, regress.WHOLE_RUN]["told"] == "two pods hold 10.0.0.7"

    before = regress.baseline_beside(suite).read_bytes()
    code, output = gate(suite, "--update")
    assert code == 1
    assert "stays as it was" in output
    assert regress.baseline_beside(suite).read_bytes() == before


# What is told.


def test_an_unchanged_suite_passes_in_one_line(suite: Path) -> None:
    """The same code gives the same figures."""
    code, output = gate(suite)
    assert code == 0
    assert output.count("\n") == 1
    assert "figures of 1 run as in" in output


def test_the_table_tells_figure_baseline_today_and_difference(suite: Path) -> None:
    """And the line under it how to accept, with the baseline that was named."""
    shifted(suite, wait_s__max=0.5, served_at_once=0.5)
    own = suite.with_name("own.json")
    regress.baseline_beside(suite).rename(own)
    code, output = gate(suite, "--baseline", own)
    assert code == 1
    assert "1 worse, 1 better" in output
    assert f"--baseline {own} --update" in output
    (line,) = [line for line in output.splitlines() if line.startswith("wait_s.max")]
    cells = [cell.strip() for cell in line.split("\N{BOX DRAWINGS LIGHT VERTICAL}")]
    assert cells[-1] == "worse"
    assert float(cells[2]) == pytest.approx(2 * float(cells[1]), rel=1e-4)
    assert "(+100.0%)" in cells[3]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Numbers and verdict are whole in 80 columns too, where only a long name is folded."""
    changes = [
        regress.Change("a", "addresses.taken.mean", 1234.567891, 7726.447271, "better"),
        regress.Change("a", "ec2_calls.ModifyNetworkInterfaceAttribute", 3, 10, "worse"),
    ]
    text = io.StringIO()
    monkeypatch.setattr(
        cli_regress,
        "Console",
        lambda **_: Console(file=text, force_terminal=True, width=columns, no_color=True),
    )
    cli_regress._print(changes, Format.TABLE)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())
    for whole in ("addresses.taken.mean", "7,726.4473", "+6,491.8794 (+525.8%)", "better", "worse"):
        assert whole in plain, plain
    assert max(map(len, plain.splitlines())) <= columns


def test_an_improvement_passes_and_offers_to_keep_it(suite: Path) -> None:
    """Better figures are listed and do not fail."""
    shifted(suite, wait_s__max=2, served_at_once=0.5)
    code, output = gate(suite)
    assert code == 0
    assert "2 better, nothing is worse" in output
    assert f"warmbench regress {suite} --update" in output


def test_lines_for_a_machine_hold_plain_numbers(suite: Path) -> None:
    """CSV without separators of thousands; the verdict stays out of standard output."""
    shifted(suite, addresses__held__max=1000)
    result = CliRunner().invoke(cli.app, ["regress", str(suite), "--format", "csv"])
    held = int(regress.measure(suites.load(suite).cases[0])["addresses.held.max"] or 0)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "scenario,figure,baseline,today,difference,status,told",
        f"{TELLS},addresses.held.max,{held * 1000},{held},{-999 * held},better,",
    ]
    assert "1 better" in result.stderr


def test_a_tolerance_accepts_that_much_and_no_more(suite: Path) -> None:
    """A share of the baseline's figure either way is no difference."""
    shifted(suite, addresses__held__mean=0.97)
    assert gate(suite)[0] == 1
    suite.write_text(SMALL + 'tolerance = { "addresses.held.mean" = 0.05 }\n')
    assert gate(suite)[0] == 0
    suite.write_text(SMALL + 'tolerance = { "addresses.held.mean" = 0.03 }\n')
    code, output = gate(suite)
    assert code == 1
    assert "has changed since" in output


def test_a_tolerance_of_the_command_holds_for_the_whole_run(suite: Path) -> None:
    """It stands in for the suite's own, be that wider or narrower; others stay exact."""
    shifted(suite, wait_s__max=0.8)
    assert gate(suite)[0] == 1
    assert gate(suite, "--tolerance", "wait_s.max=0.3")[0] == 0
    assert gate(suite, "--tolerance", "wait_s.p50=0.3")[0] == 1
    assert gate(suite, "--tolerance", "wait_s.p50=0.3", "--tolerance", "wait_s.max=0.3")[0] == 0
    suite.write_text(SMALL + 'tolerance = { "wait_s.max" = 0.5 }\n')
    assert gate(suite)[0] == 0
    assert gate(suite, "--tolerance", "wait_s.max=0.1")[0] == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("wait_s.p9=0.1", "unknown figure; did you mean"),
        ("x=0.1", "unknown figure; known are first_address_s, "),
        ("wait_s.p99", "allowed is wait_s.p99=SHARE, a share of the baseline's figure from 0 to 1"),
        ("wait_s.p99=much", "allowed is wait_s.p99=SHARE"),
        ("wait_s.p99=5", "from 0 to 1"),
        ("wait_s.p99=-0.1", "from 0 to 1"),
        ("wait_s.p99=nan", "from 0 to 1"),
    ],
)
def test_a_tolerance_that_is_none_is_refused(suite: Path, text: str, told: str) -> None:
    """In one line with what was written and what is allowed."""
    with pytest.raises(suites.SuiteError) as refused:
        gate(suite, "--tolerance", text)
    assert str(refused.value).startswith(f"tolerance {text}: ")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("figure", "old", "new", "tolerance", "status"),
    [
        ("wait_s.p50", 1.0, 1.0, 0, None),
        ("wait_s.p50", 1.0, 1.000001, 0, None),  # The last digit stored may round either way.
        ("wait_s.p50", 1.0, 1.000002, 0, "worse"),
        ("wait_s.p50", 1.0, 0.9, 0, "better"),
        ("wait_s.p50", 0.0, 0.1, 1, "worse"),  # No share of nothing is something.
        ("served", 10, 9, 0, "worse"),
        ("served_at_once", 0.5, 0.6, 0, "better"),
        ("ec2_calls.AttachNetworkInterface", 10, 11, 0, "worse"),
        ("ec2_calls.AttachNetworkInterface", 10, 11, 0.1, None),
        ("ec2_calls.AttachNetworkInterface", 10, 12, 0.1, "worse"),
        ("wait_s.p50", None, None, 0, None),
        ("wait_s.p50", None, 0.0, 0, "new"),
        ("wait_s.p50", 0.0, None, 0, "gone"),
    ],
)
def test_judging_one_figure(
    figure: str, old: float | None, new: float | None, tolerance: float, status: str | None
) -> None:
    """By its direction, its tolerance, and what is not there."""
    assert regress._status(figure, old, new, tolerance) == status


def test_a_scenario_that_is_gone_or_new_fails(suite: Path) -> None:
    """A gate that quietly lost a scenario is open."""
    suite.write_text(SMALL.replace('"small"', '"other"'))
    code, told = rows(suite)
    assert code == 1
    assert {scenario: row["status"] for (scenario, _), row in told.items()} == {
        "other (upstream)": "new",
        TELLS: "gone",
    }


def test_another_version_is_told(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where figures differ: that explains them."""
    monkeypatch.setattr(regress, "this_version", lambda: "9.9")
    assert "9.9" not in gate(suite)[1]
    shifted(suite, wait_s__max=0.5)
    assert "this is 9.9" in gate(suite)[1]


def test_warnings_about_settings_are_told(suite: Path) -> None:
    """A lenient reading replaces a value: who reads the gate's log should know."""
    suite.write_text(SMALL.replace("WARM_IP_TARGET = 1", 'WARM_IP_TARGET = "many"'))
    assert f"warning: {TELLS}: WARM_IP_TARGET" in gate(suite)[1]


# Baselines.


def test_update_accepts_and_a_later_run_agrees(suite: Path) -> None:
    """What --update writes is what the next run holds; no draft is left."""
    path = regress.baseline_beside(suite)
    first = path.read_bytes()
    path.unlink()
    code, output = gate(suite, "--update")
    assert code == 0
    assert "1 new" in output
    assert path.read_bytes() == first
    assert gate(suite)[0] == 0
    assert sorted(p.name for p in suite.parent.iterdir()) == ["suite.baseline.json", "suite.toml"]


def test_update_says_what_changed(suite: Path) -> None:
    """Worse or better, with the figures; and that nothing did."""
    assert "figures of 1 run as in" in gate(suite, "--update")[1]
    shifted(suite, wait_s__max=0.5)
    code, output = gate(suite, "--update")
    assert code == 0
    assert "wait_s.max" in output
    assert "1 worse" in output
    suite.write_text(SMALL + 'tolerance = { "wait_s.max" = 0.5 }\n')
    assert "no figure differs" in gate(suite, "--update")[1]


def test_a_baseline_reads_well_in_a_diff(suite: Path) -> None:
    """One figure a line, counts as whole numbers, in the order of the figures."""
    lines = regress.baseline_beside(suite).read_text().splitlines()
    stored = [line.strip().split(":")[0].strip('"') for line in lines if line.startswith("   ")]
    assert stored[: len(suites.FIGURES)] == list(suites.FIGURES)
    assert '   "served": 6,' in lines


def test_an_update_that_fails_leaves_the_old_baseline(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing, and no draft."""
    path = regress.baseline_beside(suite)
    shifted(suite, wait_s__max=0.5)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        gate(suite, "--update")
    assert path.read_bytes() == before
    assert sorted(p.name for p in suite.parent.iterdir()) == ["suite.baseline.json", "suite.toml"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"figures": 3, "warmbench": "", "suite": ""}',
        '{"figures": {"a": 3}, "warmbench": "", "suite": ""}',
        '{"figures": {"a": {"served": "many"}}, "warmbench": "", "suite": ""}',
        '{"figures": {"a": {"served": true}}, "warmbench": "", "suite": ""}',
        '{"figures": {"a": [[1, 2]]}, "warmbench": "", "suite": ""}',
        '{"figures": {"a\\ud800": {}}, "warmbench": "", "suite": ""}',
        '{"figures": {"a": {"b\\u0000": 1}}, "warmbench": "", "suite": ""}',
        '{"figures": {}, "warmbench": "", "suite": "", "wall_clock": 3}',
        '{"figures": {}, "warmbench": "", "suite": "", "wall_clock": {"add_ratio": "fast"}}',
        '{"figures": {"a": {"served": NaN}}, "warmbench": "", "suite": ""}',
        '{"figures": {"a": {"served": 1' + "0" * 400 + '}}, "warmbench": "", "suite": ""}',
    ],
)
def test_a_broken_baseline_is_refused(suite: Path, text: str) -> None:
    """It is never taken for an empty one, and --update does not write over a stranger's file."""
    path = regress.baseline_beside(suite)
    path.write_text(text)
    for words in ([], ["--update"]):
        with pytest.raises(suites.SuiteError, match=r"not a baseline .* remove it and make it"):
            gate(suite, *words)
    assert path.read_text() == text


# Exit codes and lines, as a shell sees them.


def shell(*words: object) -> tuple[int, str]:
    """Run the command in a process of its own; return its exit code and standard error."""
    done = subprocess.run(  # noqa: S603 - our own interpreter and command
        [sys.executable, "-m", "sim.cli", "regress", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_bad_input_ends_with_2_and_one_line(suite: Path) -> None:
    """No suite, no baseline, no folder for it, nodes that do not fit: each names its way out."""
    crowded = suite.with_name("crowded.toml")
    text = SMALL.replace("10.0.0.0/24", "10.0.0.0/28")
    crowded.write_text(text.replace("seed", "nodes = 40\nseed"))
    other = suite.with_name("other.toml")
    other.write_text(SMALL)
    for words, told in (
        ([suite.with_name("none.toml")], "none.toml: cannot be read: No such file"),
        ([other], "other.baseline.json: there is no baseline yet: make it with --update"),
        ([suite, "--update", "--baseline", suite.with_name("no") / "b.json"], "there is no folder"),
        ([crowded, "--update"], f"crowded.toml: {TELLS}: "),
    ):
        code, err = shell(*words)
        assert code == 2, err
        assert told in err
        assert err.count("\n") == 1


def test_a_shell_sees_whether_the_gate_is_open(suite: Path) -> None:
    """0 where all is as it was, 1 where a figure got worse."""
    assert shell(suite)[0] == 0
    shifted(suite, wait_s__max=0.5)
    assert shell(suite)[0] == 1
