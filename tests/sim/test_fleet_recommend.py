"""Settings for the pools of a fleet, and for all of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim import fleet_recommend, scenario_file
from sim.cell import figures_of, worst_of_pools
from sim.cli import app
from sim.executor import Here
from sim.fleet_recommend import FleetAnswer, recommend_fleet
from sim.scenario import Scenario
from sim.simulation import run
from sim.slo import parse_slo
from sim.sweep import Bench

TEXT = """
seed = 1
ignore_requests = true
trace = { shape = "minute-jobs", jobs = 24, duration_s = 360, period_s = 60 }
subnets = ["10.0.0.0/24"]
settings = { IP_COOLDOWN_PERIOD = 20, WARM_IP_TARGET = 1 }
[[pool]]
name = "busy"
instance = "m5.large"
nodes = 2
[[pool]]
name = "idle"
instance = "t3.medium"
nodes = 1
takes = ["nobody"]
"""
SLO = "p99_wait<=15s,refused<=5%"


def searched(folder: Path, text: str = TEXT, slo: str = SLO) -> FleetAnswer:
    """Search with one seed and few runs."""
    path = folder / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    table = scenario_file.load(path)
    pods = table.pods({})
    assert pods is not None
    pods = replace(pods, names=tuple(f"job-{n}" for n in range(len(pods))))

    def make(words: Mapping[str, Sequence[str]], seed: int) -> Scenario:
        return replace(table.scenario("upstream", instead=words), seed=seed)

    bench = Bench(pods, Here(pods))
    return recommend_fleet(bench, make, parse_slo(slo), seed=1, seeds=1, runs_max=90)


def test_each_pool_gets_its_own_setting_and_the_other_its_price(tmp_path: Path) -> None:
    """A pool without pods wants one address where the busy one wants many: the price says so."""
    answer = searched(tmp_path)

    assert answer.feasible
    assert answer.one.keeps
    assert answer.each.words["idle"] != answer.each.words["busy"]
    assert answer.price > 0
    told = dict(fleet_recommend.lines(answer))
    assert "addresses more on average" in told["  its price"]
    assert fleet_recommend.deploy(answer)[-1].startswith("kubectl set env daemonset aws-node-idle ")
    assert searched(tmp_path) == answer


def test_what_the_file_sets_beside_the_targets_holds(tmp_path: Path) -> None:
    """Targets of the file give way, a cooldown does not."""
    (tmp_path / "f.toml").write_text(TEXT, encoding="utf-8")
    table = scenario_file.load(tmp_path / "f.toml")
    words = {"busy": ("WARM_ENI_TARGET=2",)}
    busy, idle = table.scenario("native", instead=words).pools

    assert (busy.settings["WARM_ENI_TARGET"], busy.cooldown_s) == ("2", 20.0)
    assert "WARM_IP_TARGET" not in busy.settings or busy.settings["WARM_IP_TARGET"] == "0"
    assert idle.settings["WARM_IP_TARGET"] == "1"


def test_the_worst_pool_is_judged(tmp_path: Path) -> None:
    """Pods of a pool that never waits do not hide those of one that does."""
    text = TEXT.replace('takes = ["nobody"]', 'takes = ["job-0", "job-1"]')
    (tmp_path / "f.toml").write_text(text, encoding="utf-8")
    table = scenario_file.load(tmp_path / "f.toml")
    pods = table.pods({})
    assert pods is not None
    pods = replace(pods, names=tuple(f"job-{n}" for n in range(len(pods))))
    record = run(table.scenario("upstream"), pods)

    whole, worst = figures_of(record), worst_of_pools(record)
    assert worst["refused_share"] > whole["refused_share"] > 0
    assert worst["taken_mean"] == whole["taken_mean"]


def test_the_command_exits_with_1_where_nothing_keeps_the_promise(tmp_path: Path) -> None:
    """Nobody can wait less than no time on a fleet that takes one address: the nearest is shown."""
    path = tmp_path / "fleet.toml"
    path.write_text(TEXT.replace('takes = ["nobody"]', ""), encoding="utf-8")
    words = ["fleet", "recommend", str(path), "--slo", "taken<=1", "--seeds", "1", "--runs", "60"]
    result = CliRunner().invoke(app, [*words, "--jobs", "1", "--format", "json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["feasible"] is False


@pytest.mark.parametrize("word", ["trace", "pool"])
def test_a_broken_file_is_one_line(tmp_path: Path, word: str) -> None:
    """What the search needs is looked at before it begins."""
    path = tmp_path / "fleet.toml"
    path.write_text(TEXT.replace(word, f"{word}s"), encoding="utf-8")
    result = CliRunner().invoke(app, ["fleet", "recommend", str(path)])
    assert "unknown key" in str(result.exception)
