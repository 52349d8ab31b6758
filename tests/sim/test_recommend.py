from dataclasses import replace

import pytest

from cni.settings import Settings
from sim.executor import Here
from sim.grid import Place
from sim.node_type import NodeType
from sim.recommend import (
    Recommendation,
    RecommendError,
    confidence,
    environment_block,
    lines,
    recommend,
)
from sim.runway import runway
from sim.scenario import Scenario, SubnetPlan, scenario_for
from sim.search import Choice, Space, Trials
from sim.slo import parse_slo
from sim.sources.shapes import generate
from sim.sweep import Bench
from tests.sim.worlds import BOTH, scenario

TRACE = generate("minute-jobs", {"duration_s": "600"}, seed=1)
M5 = NodeType("m5.large", 3, 10)
XEN = NodeType("m4.large", 3, 10, prefixes_allowed=False)
PLACE = Place(XEN, "upstream", (SubnetPlan("10.0.0.0/24"),), 3, None, 0)


def make(place: Place, settings: Settings) -> Scenario:
    """Make the scenario of a cell as the command does."""
    (behaviour,) = (one for one in BOTH if one.name == place.behaviour)
    return scenario_for(
        place.node_type,
        settings,
        subnets=place.subnets,
        behaviour=behaviour,
        nodes=place.nodes,
        seed=place.seed,
    )


def ask(slo: str, place: Place = PLACE, seeds: int = 2, **options: object) -> Recommendation:
    """Ask for a recommendation on the small trace."""
    bench = Bench(TRACE, Here(TRACE))
    answer, _ = recommend(bench, place, make, parse_slo(slo), seeds=seeds, **options)  # type: ignore[arg-type]
    return answer


def test_it_is_near_the_best_of_a_grid_that_is_tried_whole() -> None:
    """Within 5 % of the fewest addresses with which any cell of the grid keeps the promise."""
    limits = parse_slo("p90_wait<=1s,refused<=5%")
    bench = Bench(TRACE, Here(TRACE))
    answer, _ = recommend(bench, PLACE, make, limits, seeds=1, runs_max=80)

    def scenario_of(choice: Choice, seed: int) -> Scenario:
        words = dict(word.split("=") for word in choice.words)
        chosen = Settings(
            warm_ip_target=int(words["WARM_IP_TARGET"]),
            minimum_ip_target=int(words.get("MINIMUM_IP_TARGET", 0)),
        )
        return make(replace(PLACE, seed=seed), chosen)

    every = Trials(bench, scenario_of, limits, [0])
    space = Space({False: 27}, 0.0)
    grid = [
        Choice(False, "ip", warm, floor)
        for warm in (1, 2, 3, 5, 8, 12)
        for floor in range(0, 28, 3)
    ]
    every.measure(space.kept(grid), [0])
    best = every.ranked()[0]
    assert every.keeps(best)
    assert answer.feasible
    assert answer.runs <= 80
    assert answer.best.taken_mean <= 1.05 * every.mean(best, "taken_mean")
    # The promise costs something here: the cheapest settings break it.
    assert answer.binding
    assert not every.keeps(min(every.tried, key=lambda one: every.mean(one, "taken_mean")))


def test_equal_inputs_give_equal_answers() -> None:
    """Every word and every digit."""
    first, second = (ask("p99_wait<=20s,refused<=20%", runs_max=60) for _ in range(2))
    assert first.as_dict() == second.as_dict()
    assert lines(first) == lines(second)


def test_what_to_deploy_sets_every_target_and_removes_the_others() -> None:
    """A target left over from before would rule in place of what is recommended."""
    answer = ask("refused<=100%", runs_max=60)
    assert answer.deploy.startswith("kubectl set env daemonset aws-node -n kube-system ")
    for name in ("WARM_ENI_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET"):
        assert answer.deploy.count(f" {name}-") + answer.deploy.count(f" {name}=") == 1
    assert "WARM_PREFIX_TARGET-" in answer.deploy.split()
    assert '    value: "false"' in environment_block(answer)
    # Nothing tried is cheaper: the promise binds nothing.
    assert dict(lines(answer))["what binds"].startswith("nothing")


def test_where_nothing_keeps_the_promise_the_nearest_is_told() -> None:
    """A subnet too small for the pods: the answer says so, and what value would be reached."""
    small = replace(PLACE, subnets=(SubnetPlan("10.0.0.0/28"),))
    answer = ask("max_wait<=0s", small, seeds=1, runs_max=60)
    assert not answer.feasible
    assert [limit.name for limit, _ in answer.misses] == ["max_wait"]
    told = [text for what, text in lines(answer) if what == "what would have to change"]
    assert "not 0 s" in told[0]
    assert any("runs dry" in text for text in told)
    assert answer.runway.growth < 0.5


def test_warm_targets_cannot_be_fixed() -> None:
    """They are what is asked for; other settings hold throughout."""
    with pytest.raises(RecommendError, match="warmbench sweep"):
        ask("refused<=1%", fixed=["WARM_IP_TARGET=3"])
    answer = ask("refused<=100%", seeds=1, runs_max=60, fixed=["IP_COOLDOWN_PERIOD=60"])
    assert "IP_COOLDOWN_PERIOD=60" in answer.deploy


def test_prefixes_are_tried_where_the_type_takes_them() -> None:
    """And only they, where prefix mode is fixed."""
    place = replace(PLACE, node_type=M5)
    fixed = ["ENABLE_PREFIX_DELEGATION=true"]
    answer = ask("refused<=100%", place, seeds=1, runs_max=60, fixed=fixed)
    assert "ENABLE_PREFIX_DELEGATION=true" in answer.best.words
    assert answer.environment["ENABLE_PREFIX_DELEGATION"] == "true"


def test_nodes_that_do_not_fit_are_an_error() -> None:
    """No setting can help there, so there is no answer."""
    with pytest.raises(RecommendError, match="fit"):
        ask("refused<=1%", replace(PLACE, subnets=(SubnetPlan("10.0.0.0/28"),), nodes=50))


def test_the_runway() -> None:
    """251 addresses hold twelve nodes of 20; of whole /28s the primaries leave fewer."""
    base = scenario(subnets=["10.0.0.0/24"], nodes=4)
    peak = {"enis_max": 8.0, "held_max": 72.0}
    reach = runway(base, [peak])
    assert (reach.nodes, reach.growth, reach.per_node, reach.blocks_short) == (12, 2.0, 20, False)
    prefix = scenario("ENABLE_PREFIX_DELEGATION=true", subnets=["10.0.0.0/24"], nodes=4)
    fewer = runway(prefix, [{"enis_max": 8.0, "held_max": 64.0}])
    assert fewer.nodes < 251 // fewer.per_node
    assert fewer.blocks_short


def test_confidence_grows_with_seeds() -> None:
    """Sixty seeds without a failure make 95 % of such runs 95 % sure."""
    assert confidence(2) < confidence(5) < 0.95 < confidence(60)
