"""What the commands about limits and traces print."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sim import trace as traces
from sim.cli import app
from sim.sources.shapes import SHAPES


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every command a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def run(*words: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_the_list_of_limits_fits_80_columns() -> None:
    """No head is broken within a word, types without prefixes say so, words are explained."""
    lines = run("limits").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [head.strip() for head in lines[0].split("┃")]
    assert heads == ["type", "ENIs", "IPs per ENI", "addresses", "with prefixes", "agreement"]
    rows = {cells[0]: cells for line in lines if (cells := line.replace("│", " ").split())}
    assert rows["m5.large"] == ["m5.large", "3", "10", "27", "432", "agree"]
    assert rows["m4.4xlarge"][4] == "no"
    assert rows["a1.4xlarge"][4] == "3,712"
    assert lines[-2].split(maxsplit=1) == [
        "conflict",
        "the sources differ; EC2's own record is used",
    ]


def test_one_type_shows_what_each_source_says() -> None:
    """Where sources differ, both values are there."""
    lines = run("limits", "i7ie.48xlarge").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    told = {line[:28].strip(): line[28:].strip() for line in lines}
    assert told["addresses"] == "392 for pods: 8 × 49"  # noqa: RUF001
    assert told["with prefixes"] == "6,272: 392 prefixes of 16"
    assert "8 ENIs × 50 addresses (15 ENIs over all cards)" in lines[-2]  # noqa: RUF001
    assert "15 ENIs × 50 addresses" in lines[-1]  # noqa: RUF001


def test_limits_for_programs() -> None:
    """JSON has numbers, and null where a type takes no prefixes."""
    limits = json.loads(run("limits", "m4.4xlarge", "--format", "json").stdout)
    assert (limits["addresses"], limits["with prefixes"]) == (232, None)


def test_shapes_are_listed_before_their_parameters() -> None:
    """A line for each shape comes first."""
    lines = run("trace", "generate").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for line, shape in zip(lines, SHAPES.values(), strict=False):
        assert line.rstrip().split(maxsplit=1) == [shape.name, shape.summary]


def test_a_shape_without_a_file_shows_its_parameters() -> None:
    """It is a question, not an error, unless parameters were given."""
    done = run("trace", "generate", "scale")
    assert done.exit_code == 0
    assert "repeats=3" in done.stdout
    assert "completions" not in done.stdout
    with pytest.raises(ValueError, match="--out FILE"):
        run("trace", "generate", "scale", "--set", "pods=3")
    with pytest.raises(ValueError, match="did you mean"):
        run("trace", "generate", "scales")


def test_every_figure_of_a_trace_has_its_words(tmp_path: Path) -> None:
    """Times and shares carry units; JSON keeps the plain names."""
    file = tmp_path / "example.csv"
    traces.save(traces.example(), file)
    shown = run("trace", "describe", str(file)).stdout
    assert "length                             4 h" in shown
    assert "most pods alive at once            193" in shown
    assert "_s " not in shown
    assert (
        json.loads(run("trace", "describe", str(file), "--format", "json").stdout)["pods"] == 2022
    )
    assert "span_s,14400\n" in run("trace", "describe", str(file), "--format", "csv").stdout


def test_first_lines_of_help_are_whole() -> None:
    """No command's line in a list is cut."""
    for words in ((), ("trace",)):
        assert "..." not in run(*words, "--help").stdout.partition("Commands:")[2]


def test_a_replay_names_its_trace_in_one_line() -> None:
    """Notes that came with the trace are counted; what the command did is told."""
    done = run(
        *("replay", "sim/examples/web-and-jobs.csv", "--max-enis", "3", "--ips-per-eni", "10"),
        *("--nodes", "2", "--subnet", "10.0.0.0/22", "--thin", "0.01", "--seed", "3"),
    )
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("trace: web-and-jobs.csv, ")
    assert first.endswith("pods over 4 h (4 notes; `warmbench trace describe` lists them)")
    assert second == "note: thinned to 0.01 of the pods, seed 3"
    assert done.stdout.startswith("2 nodes (3 ENIs × 10 addresses) held ")  # noqa: RUF001


def test_a_node_is_titled_by_its_variables() -> None:
    """The settings are named as users write them, in a title of one line."""
    limits = ("--max-enis", "3", "--ips-per-eni", "10", "--pods", "0")
    done = run("node", *limits, "--set", "WARM_IP_TARGET=2", "--set", "MINIMUM_IP_TARGET=10")
    title = done.stdout.splitlines()[0]
    assert title == (
        "3 ENIs × 10 addresses, native, WARM_IP_TARGET=2 MINIMUM_IP_TARGET=10"  # noqa: RUF001
    )
