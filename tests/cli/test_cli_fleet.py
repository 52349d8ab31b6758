"""`warmbench fleet`: a scenario file in, figures of each pool out."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.cli import app

EXAMPLE = Path(__file__).parents[2] / "sim" / "examples" / "fleet.toml"
SMALL = """
subnets = ["10.0.0.0/24"]
trace = { shape = "steady", duration_s = 300, rate_per_s = 0.1 }
[[pool]]
name = "a"
instance = "m5.large"
[[pool]]
name = "b"
instance = "m5.large"
spot = { per_node_hour = 5 }
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write a small scenario."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def test_json_tells_the_fleet_and_each_pool(small: Path) -> None:
    """The figures of the whole, and under `pools` those of each."""
    result = CliRunner().invoke(app, ["fleet", "run", str(small), "--format", "json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert list(told["pools"]) == ["a", "b"]
    assert told["served"] == sum(one["served"] for one in told["pools"].values()) > 0
    assert told["scenario"]["b: spot"].startswith("5 losses per node and hour, 120 s notice")


def test_csv_has_a_column_for_each_pool(small: Path) -> None:
    """A spreadsheet gets the table as it is."""
    result = CliRunner().invoke(app, ["fleet", "run", str(small), "--format", "csv"])
    assert result.stdout.splitlines()[0] == "figure,fleet,a,b"


def test_a_folder_holds_record_and_report(small: Path, tmp_path: Path) -> None:
    """`--out` leaves the summary, the record with its moves, and the report with the scenario."""
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["fleet", "run", str(small), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert (out / "record" / "moves.parquet").is_file()
    assert "5 losses per node and hour" in (out / "report.html").read_text(encoding="utf-8")


def test_the_trace_may_be_another(small: Path) -> None:
    """`--trace` replaces the scenario's own; without either, one line says what to do."""
    other = EXAMPLE.with_name("web-and-jobs.csv")
    result = CliRunner().invoke(
        app, ["fleet", "run", str(small), "--trace", str(other), "--format", "json"]
    )
    assert json.loads(result.stdout)["trace"] == "web-and-jobs.csv"
    small.write_text(SMALL.replace("trace =", "#"), encoding="utf-8")
    result = CliRunner().invoke(app, ["fleet", "run", str(small)])
    assert "no trace: name one there, or give --trace FILE" in str(result.exception)


def test_keys_lists_what_a_file_may_say() -> None:
    """Help for the file is at hand without leaving the terminal."""
    result = CliRunner().invoke(app, ["fleet", "keys"])
    assert "autoscaling = { least = 2" in result.stdout


def test_settings_can_be_laid_over_for_all_pools_or_one(small: Path) -> None:
    """A what-if needs no second file; a pool that is not there is named."""

    def told(*words: str) -> dict[str, dict[str, str]]:
        result = CliRunner().invoke(app, ["fleet", "run", str(small), *words, "--format", "json"])
        if result.exception is not None:
            raise result.exception
        return {name: one["settings"] for name, one in json.loads(result.stdout)["pools"].items()}

    found = told("--set", "WARM_IP_TARGET=2", "--set", "b/WARM_IP_TARGET=5", "--seed", "3")
    assert (found["a"]["WARM_IP_TARGET"], found["b"]["WARM_IP_TARGET"]) == ("2", "5")
    with pytest.raises(ValueError, match="no pool is called c"):
        told("--set", "c/WARM_IP_TARGET=2")
    with pytest.raises(ValueError, match="write KEY=VALUE, or POOL/KEY=VALUE"):
        told("--set", "WARM_IP_TARGET")


def test_a_seed_stands_in_for_the_files_own(small: Path) -> None:
    """Everything random follows it, pods of a shape among them."""

    def told(text: str, *words: str) -> object:
        small.write_text(text, encoding="utf-8")
        result = CliRunner().invoke(app, ["fleet", "run", str(small), "--format", "csv", *words])
        assert result.exit_code == 0, result.output
        return result.stdout

    text = small.read_text(encoding="utf-8")
    assert "seed" not in text
    assert told(text, "--seed", "7") == told("seed = 7\n" + text) != told(text)
