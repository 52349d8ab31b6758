"""The wall clock's ratios: what is measured, what the gate makes of it, and a slower assign."""

import gc
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import perf_counter

import pytest
from typer.testing import CliRunner

from cni.allocator.allocator import Allocator
from cni.allocator.model import Assignment, Instant, SandboxKey
from sim import cli, regress, wall_clock

SMALL = """
[[scenario]]
name = "small"
max_enis = 3
ips_per_eni = 4
subnets = ["10.0.0.0/24"]
trace = { shape = "scale", pods = 6, ramp_s = 0, hold_s = 200, rest_s = 60, repeats = 1 }
"""


def gate(suite: Path, *words: str) -> tuple[int, str, dict[str, dict[str, object]]]:
    """Run with --wall-clock; return the exit code, what was told, and the changes by figure."""
    wanted = ["regress", str(suite), "--wall-clock", "--format", "json", *words]
    result = CliRunner().invoke(cli.app, wanted)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return result.exit_code, result.stderr, {f"{r['scenario']} {r['figure']}": r for r in rows}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Write a small suite with its baseline, ratios included, measured now."""
    path = tmp_path / "suite.toml"
    path.write_text(SMALL)
    assert gate(path, "--update")[0] == 0
    return path


def shift(suite: Path, figure: str, factor: float) -> None:
    """Multiply a stored ratio."""
    path = regress.baseline_beside(suite)
    stored = json.loads(path.read_text())
    stored["wall_clock"][figure] *= factor
    path.write_text(json.dumps(stored))


def twice_as_slow(
    original: Callable[[Allocator, SandboxKey, Instant], Assignment],
) -> Callable[[Allocator, SandboxKey, Instant], Assignment]:
    """Take the time of the original once more, by a loop."""

    def slow(self: Allocator, sandbox: SandboxKey, now: Instant) -> Assignment:
        started = perf_counter()
        assignment = original(self, sandbox, now)
        until = 2 * perf_counter() - started
        while perf_counter() < until:
            pass
        return assignment

    return slow


def test_without_a_fault_the_ratios_are_the_same(suite: Path) -> None:
    """Measured twice in one minute, on whatever machine, they are within tolerance."""
    code, told, changes = gate(suite)
    assert code == 0, changes
    assert "figures of 1 run as in" in told


def test_a_slower_assign_is_caught(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the time is worse, by the figure's name; release and simulated figures are not."""
    monkeypatch.setattr(Allocator, "assign", twice_as_slow(Allocator.assign))
    code, told, changes = gate(suite)
    assert code == 1
    assert changes.keys() == {
        f"{regress.WALL_CLOCK} assign_ratio.{name}" for name in ("native", "upstream")
    }
    assert {change["status"] for change in changes.values()} == {"worse"}
    assert "--wall-clock --update" in told


def test_a_slower_release_is_caught(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the other half of the pair."""
    monkeypatch.setattr(Allocator, "release", twice_as_slow(Allocator.release))
    code, _, changes = gate(suite)
    assert code == 1
    assert changes.keys() == {
        f"{regress.WALL_CLOCK} release_ratio.{name}" for name in ("native", "upstream")
    }


def test_a_slower_add_is_caught(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing twice as slowly shows in the ADD alone."""
    original = wall_clock._answer

    def slow(*arguments: object) -> bytes:
        started = perf_counter()
        reply = original(*arguments)  # type: ignore[arg-type]
        until = 2 * perf_counter() - started
        while perf_counter() < until:
            pass
        return reply

    monkeypatch.setattr(wall_clock, "_answer", slow)
    code, _, changes = gate(suite)
    assert code == 1
    assert changes.keys() == {f"{regress.WALL_CLOCK} add_ratio"}


def test_a_tolerance_may_be_given_for_a_ratio(suite: Path) -> None:
    """As for any other figure; without one it is a half."""
    shift(suite, "add_ratio", 0.3)
    assert gate(suite)[0] == 1
    shift(suite, "add_ratio", 1.8)
    assert gate(suite, "--tolerance", "add_ratio=1")[0] == 0


def test_nobody_is_held_to_ratios_without_asking(suite: Path) -> None:
    """The plain command runs none and misses none, and --update keeps what is stored."""
    shift(suite, "add_ratio", 0.1)
    before = regress.baseline_beside(suite).read_text()
    plain = CliRunner().invoke(cli.app, ["regress", str(suite)])
    assert plain.exit_code == 0
    updated = CliRunner().invoke(cli.app, ["regress", str(suite), "--update"])
    assert updated.exit_code == 0
    assert json.loads(regress.baseline_beside(suite).read_text()) == json.loads(before)


def test_an_update_within_tolerance_leaves_the_ratios_alone(suite: Path) -> None:
    """Else each update would bring new digits that say nothing; beyond it, they are replaced."""
    before = regress.baseline_beside(suite).read_text()
    assert gate(suite, "--update")[0] == 0
    assert regress.baseline_beside(suite).read_text() == before
    shift(suite, "add_ratio", 0.1)
    assert gate(suite, "--update")[0] == 0
    stored = regress.load_baseline(regress.baseline_beside(suite)).wall_clock
    old = json.loads(before)["wall_clock"]["add_ratio"]
    assert stored is not None
    assert old / 2 < (stored["add_ratio"] or 0) < old * 2


def test_ratios_that_are_missing_close_the_gate(suite: Path) -> None:
    """Asked for and never stored: nothing to hold them to."""
    path = regress.baseline_beside(suite)
    stored = json.loads(path.read_text())
    del stored["wall_clock"]
    path.write_text(json.dumps(stored))
    code, _, changes = gate(suite)
    assert code == 1
    assert changes[f"{regress.WALL_CLOCK} {regress.WHOLE_RUN}"]["status"] == "new"


def test_ratios_are_of_steps_to_the_reference() -> None:
    """By a clock that ticks once a look, each round takes one tick: the steps in it decide."""
    ticks = count()
    ratios = wall_clock.measure(lambda: float(next(ticks)), rounds=4)
    per_add = round(wall_clock.STEPS / wall_clock.ADDS, 3)
    assert ratios == dict.fromkeys(wall_clock.WALL_CLOCK_FIGURES, 1.0) | {"add_ratio": per_add}


def test_rounds_that_were_interrupted_are_forgotten() -> None:
    """Where every second set of rounds takes a thousand times as long, the others decide."""
    rounds = 8
    looks = count()
    quiet = wall_clock.measure(lambda: float(next(looks)), rounds=rounds)
    in_a_set = next(looks) // rounds
    looks, now = count(), 0.0

    def clock() -> float:
        nonlocal now
        now += 1000.0 if next(looks) // in_a_set % 2 else 1.0
        return now

    assert wall_clock.measure(clock, rounds=rounds) == quiet


def test_the_collector_is_left_as_it_was() -> None:
    """It is off while the clock runs, and afterwards on again, unless it was not."""
    seen = []
    wall_clock.measure(perf_counter, rounds=2, progress=lambda _: seen.append(gc.isenabled()))
    assert seen == [False, False]
    assert gc.isenabled()
