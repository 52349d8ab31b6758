"""`warmbench behaviours`: native beside upstream on three axes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.behaviours import AXES, Axis, Pair, verdict
from sim.cli import app

SUITE = """
[[scenario]]
name = "jobs"
behaviours = ["native"]
instance = "m5.large"
subnets = ["10.0.0.0/24"]
settings = { WARM_IP_TARGET = 2, MINIMUM_IP_TARGET = 4 }
trace = { shape = "minute-jobs", jobs = 8, duration_s = 300 }
"""


def pair(**native: float) -> Pair:
    """Return a scenario in which upstream has 100 of everything."""
    axes = (Axis(name, 100.0, native.get(name.split()[0].strip(","), 100.0)) for name in AXES)
    return Pair("made", tuple(axes))


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal(tmp_path: Path, width: int) -> None:
    """Each scenario has a line for each figure, and the end counts where native is better."""
    path = tmp_path / "suite.toml"
    path.write_text(SUITE, encoding="utf-8")
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(app, ["behaviours", str(path)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("jobs") for line in lines)
    assert "refused ADDs: native is better in 1, alike in 0, worse in 0" in lines


def test_rows_are_for_programs_too(tmp_path: Path) -> None:
    """One JSON object for each scenario and figure; the file's own behaviours do not matter."""
    path = tmp_path / "suite.toml"
    path.write_text(SUITE, encoding="utf-8")
    result = CliRunner().invoke(app, ["behaviours", str(path), "--format", "json"])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["figure"] for row in rows] == list(AXES)
    assert rows[1]["upstream"] > rows[1]["native"] == 0


@pytest.mark.parametrize(
    ("native", "worse", "exception"),
    [
        ({"addresses": 150.0}, ("addresses taken",), False),
        ({"wait": 150.0}, ("waiting",), False),
        ({"wait": 150.0, "refused": 50.0}, (), False),
        ({"wait": 150.0, "addresses": 150.0}, ("waiting", "addresses taken"), True),
        ({"mutating": 102.0}, ("mutating calls",), True),
        ({"mutating": 100.5}, (), False),
    ],
)
def test_two_axes_at_once_or_more_calls_are_an_exception(
    native: dict[str, float], worse: tuple[str, ...], *, exception: bool
) -> None:
    """One axis may be worse, but not the calls: all nodes of an account share their rate."""
    found = pair(**native)
    assert (found.worse, found.exception) == (worse, exception)
    assert any(line.startswith("exception: made") for line in verdict([found])) == exception
