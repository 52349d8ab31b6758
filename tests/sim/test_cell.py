from dataclasses import replace
from pathlib import Path

import pytest

from sim.cell import BOUND, FIGURES, CellCache, bound_task, key_of, perform, run_task, trace_digest
from sim.simulation import run
from sim.sources.shapes import generate
from tests.sim.worlds import pods, scenario

STEADY = generate("minute-jobs", {"duration_s": "1800"}, seed=1)


def test_a_run_gives_every_figure() -> None:
    """The figures are those of the summary, under the names in FIGURES, in that order."""
    result = perform(run_task(scenario("WARM_IP_TARGET=2", nodes=3)), STEADY)
    assert tuple(result.figures) == FIGURES
    assert result.figures["pods"] == len(STEADY)


def test_the_bound_counts_life_and_cooldown_and_primaries() -> None:
    """One pod of 100 s and 30 s of cooling, over 260 s on two nodes: a half, and two."""
    task = bound_task(scenario(nodes=2))
    assert perform(task, pods([0.0], 100.0, end=260.0)).figures == {BOUND: 2.5}


@pytest.mark.parametrize("setting", ["WARM_IP_TARGET=10", "WARM_ENI_TARGET=2", ""])
def test_no_setting_beats_the_bound(setting: str) -> None:
    """Where no pod waits, more addresses are taken than the bound says."""
    base = scenario(setting, nodes=3)
    figures = perform(run_task(base), STEADY).figures
    bound = perform(bound_task(base), STEADY).figures[BOUND]
    assert figures["taken_mean"] > bound > base.nodes


def test_names_tell_apart_what_differs_and_only_that() -> None:
    """Command and variables without effect change no name; target, seed, trace and code do."""
    digest = trace_digest(STEADY)
    base = scenario("WARM_IP_TARGET=2")
    name = key_of(run_task(base), digest, "code")
    same = scenario("WARM_IP_TARGET=2 WARM_ENI_TARGET=3")
    assert key_of(run_task(replace(same, command=("x",))), digest, "code") == name
    others = [
        key_of(run_task(scenario("WARM_IP_TARGET=3")), digest, "code"),
        key_of(run_task(replace(base, seed=1)), digest, "code"),
        key_of(run_task(base), trace_digest(pods([0.0])), "code"),
        key_of(run_task(base), digest, "other code"),
        key_of(bound_task(base), digest, "code"),
    ]
    assert len({name, *others}) == 6


def test_the_ideal_world_never_gives_an_address_back() -> None:
    """Else one could go and come back for ever in an instant, since EC2 takes no time there."""
    ideal = bound_task(scenario("WARM_IP_TARGET=1", nodes=4)).scenario
    assert ideal.pool.behaviour.surplus_hold_s > 1e9
    assert "UnassignPrivateIpAddresses" not in run(ideal, STEADY).apis


@pytest.mark.parametrize(("nodes", "subnets"), [(10, 1), (5_000, 1), (60_000, 4)])
def test_the_ideal_world_has_room_for_every_node(nodes: int, subnets: int) -> None:
    """Subnets hold all addresses of all nodes, in several where one cannot."""
    made = scenario(nodes=nodes)
    plans = bound_task(made).scenario.subnets
    sizes = [2 ** (32 - int(plan.cidr.rpartition("/")[2])) for plan in plans]
    assert len(plans) == subnets
    assert sum(sizes) >= nodes * (made.pool.limits.pods + 2) * 2
    assert len({plan.cidr for plan in plans}) == len(plans)


def test_what_breaks_is_a_result_in_one_line() -> None:
    """Nodes that find no place do not stop the others."""
    result = perform(run_task(scenario(subnets=["10.0.0.0/28"], nodes=99)), STEADY)
    assert result.figures == {}
    assert result.error.startswith("ScenarioError: ")
    assert "\n" not in result.error


def test_the_cache_gives_back_what_it_was_given(tmp_path: Path) -> None:
    """Figures come back exactly, nan among them; a broken file counts as missing."""
    cache = CellCache(tmp_path / "made with the first")
    assert cache.get("a") is None
    cache.put("a", {"wait": float("nan"), "taken": 0.1 + 0.2})
    found = cache.get("a")
    assert found is not None
    assert repr(found) == repr({"wait": float("nan"), "taken": 0.1 + 0.2})
    (file,) = (tmp_path / "made with the first").iterdir()
    for broken in ("", '{"key": "b", "figures": {}}', "[]", '{"key": "a", "figures": {"x": []}}'):
        file.write_text(broken)
        assert cache.get("a") is None, broken
