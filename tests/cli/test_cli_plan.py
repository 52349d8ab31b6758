"""`warmbench plan` as a user meets it."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from sim.cli import app

POOL = "nodes=20,instance=m5.large,pods=15"
SUBNETS = ("--subnet", "10.0.0.0/22,zone=a", "--subnet", "10.0.4.0/22,zone=b,used=0.1")


def run(*words: str, width: int = 80) -> tuple[int, str, str]:
    """Run the command; return exit code, output and errors."""
    done = CliRunner(env={"COLUMNS": str(width), "NO_COLOR": "1"}).invoke(app, ["plan", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(width: int) -> None:
    """Several pools with settings of their own, in lines no longer than the terminal is wide."""
    big = "name=big,nodes=5,instance=m5.4xlarge,pods=40,ENABLE_PREFIX_DELEGATION=true"
    reserved = "10.0.96.0/19,zone=b,prefixes=10.0.96.0/20,reserved=10.0.112.0/24"
    wide = ("--subnet", "10.0.32.0/19,zone=a", "--subnet", reserved)
    code, told, _ = run("--pool", POOL, "--pool", big, *wide, width=width)
    assert code == 0
    assert told.startswith("It fits, at worst too.")
    assert "10.0.96.0/19 (b)" in told
    assert max(map(len, told.splitlines())) <= width


def test_one_pool_by_options_and_by_pool_are_the_same() -> None:
    """--pool is for several; one can be told by plain options."""
    by_pool = run("--pool", POOL, *SUBNETS, "--json")
    by_options = run("--nodes", "20", "--instance", "m5.large", "--pods", "15", *SUBNETS, "--json")
    assert by_pool == by_options
    assert json.loads(by_pool[1])["fits"] == {"best": True, "worst": True}


def test_json_and_csv_tell_the_same_figures() -> None:
    """Programs find what the table shows."""
    words = ("--pool", POOL, *SUBNETS, "--set", "WARM_IP_TARGET=2", "--behaviour", "upstream")
    told = json.loads(run(*words, "--format", "json")[1])
    rows = list(csv.DictReader(io.StringIO(run(*words, "--format", "csv")[1])))
    assert [int(row["held_by_all"]) for row in rows] == [
        told[case]["pools"][0]["addresses"] for case in ("best", "worst")
    ]
    assert told["best"]["addresses"] == 20 * (15 + 2 + 2)
    assert told["pools"][0]["settings"]["WARM_IP_TARGET"] == "2"
    assert told["best"]["runs_out_first"]["what"] == "addresses"
    assert told["subnets"][1]["used_by_others"] == 102


def test_what_does_not_fit_exits_with_1() -> None:
    """At worst by default; where only the best case matters, --require says so."""
    words = ("--nodes", "12", "--instance", "m5.large", "--pods", "7", "--subnet", "10.0.0.0/24")
    code, told, _ = run(*words)
    assert code == 1
    assert told.startswith("It fits at best, not at worst: 8 of 12 nodes find room; short of")
    assert run(*words, "--require", "best")[0] == 0
    code, told, _ = run(*words, "--max-pods", "8", "--require", "best")
    assert code == 1
    assert told.startswith("It does not fit. m5.large: 7 pods and 2 on the host's network")


def test_pools_of_one_name_are_told_apart() -> None:
    """Two pools of a type are numbered."""
    told = json.loads(run("--pool", POOL, "--pool", POOL, *SUBNETS, "--json")[1])
    assert [one["name"] for one in told["pools"]] == ["m5.large #1", "m5.large #2"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--pool", POOL, "--nodes", "3"], "--nodes and --pool"),
        (["--pool", "nodes=3,instance=m5.large"], "say pods or shared-pods"),
        (["--pool", "instance=m5.large,pods=3"], "say nodes"),
        (["--pool", "nodes=x,instance=m5.large,pods=3"], "nodes=x: allowed is a whole number"),
        (["--pool", "nodes=0,instance=m5.large,pods=3"], "nodes=0: allowed is a whole number"),
        (["--pool", f"{POOL},pods=4"], "pods is given twice"),
        (["--pool", f"{POOL},colour=red"], "'colour=red' is not KEY=VALUE"),
        (["--pool", f"{POOL},WARM_IP=2"], "WARM_IP='2': unknown variable"),
        (["--pool", "nodes=1,pods=3"], "--instance TYPE"),
        (["--pool", "nodes=1,pods=3,instance=m5.larg"], "did you mean m5.large"),
        ([], "say nodes"),
        (["--pool", POOL, "--replaced", "3"], "share from 0 to 1"),
        (["--pool", POOL, "--subnet", "10.0.0.0/23"], "overlap"),
        (["--pool", POOL, "--subnet", "10.9.0.0/24,used=x"], "used=x"),
        (["--pool", POOL, "--subnet", "10.9.0.0/24,colour=red"], "after the CIDR comes"),
        (["--pool", POOL, "--subnet", "10.9.0.0/24,reserved=x"], "is no network"),
        (["--pool", POOL, "--subnet", "10.9.0.0/24,reserved=10.8.0.0/26"], "not inside"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(words: list[str], says: str) -> None:
    """The line names what was given and what would be right."""
    with pytest.raises((ValueError, LookupError)) as refused:
        run(*words, *SUBNETS)
    error = refused.value
    told = str(error.args[0] if isinstance(error, LookupError) else error)
    assert says in told
    assert "\n" not in told
