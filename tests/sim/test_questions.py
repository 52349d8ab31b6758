"""Sweep and recommend as calls: the same answers as the commands give."""

import numpy as np
import pytest

from cni.allocator.behaviour import UPSTREAM
from sim import questions
from sim.cell import figures_of
from sim.node_type import named
from sim.questions import Question
from sim.simulation import run
from sim.sources import shapes

PODS = shapes.minute_jobs(jobs=12, duration_s=300, seed=1)
QUESTION = Question(PODS, named("m5.large"), "10.0.0.0/24", 2, behaviour=UPSTREAM)


def test_a_sweep_has_a_row_for_each_setting() -> None:
    """Grid and list, cheapest first, with variables as numbers and figures of the very run."""
    table = questions.sweep(
        QUESTION, {"WARM_IP_TARGET": [1, 4]}, listed=["WARM_ENI_TARGET=1"], seeds=2
    )

    assert set(table["setting"]) == {"WARM_IP_TARGET=1", "WARM_IP_TARGET=4", "WARM_ENI_TARGET=1"}
    assert table["taken_mean"].is_monotonic_increasing
    assert set(table["seeds"]) == {2}
    one = table.set_index("setting").loc["WARM_IP_TARGET=4"]
    assert one["WARM_IP_TARGET"] == 4


def test_a_question_makes_the_scenario_that_is_swept() -> None:
    """Whoever runs one setting by hand gets the figures that the sweep has."""
    from cni.settings import Settings

    table = questions.sweep(QUESTION, {"WARM_IP_TARGET": [3]})

    figures = figures_of(run(QUESTION.scenario(Settings(warm_ip_target=3)), PODS))
    assert table["taken_mean"].tolist() == [figures["taken_mean"]]


def test_the_cheapest_keeps_its_promise() -> None:
    """A stricter promise never costs less, and one that nothing keeps is said so."""
    table = questions.sweep(QUESTION, {"WARM_IP_TARGET": [1, 2, 4, 8]})
    slos = ["max_wait<=1h", "p99_wait<=1s", "taken<=1"]

    found = questions.cheapest(table, slos)

    assert list(found.index) == slos
    costs = found["addresses"].tolist()
    assert costs[0] <= costs[1]
    assert np.isnan(costs[2])
    assert found["setting"].iloc[2] == "none of those tried"
    assert questions.keeps(table, slos[1]).any()


def test_the_answer_can_be_put_into_words() -> None:
    """The recommended setting keeps the promise, and the Markdown has what to deploy."""
    answer, tried = questions.recommend(QUESTION, "p99_wait<=20s", seeds=1, runs_max=20)

    assert answer.feasible
    assert len(tried) >= 5
    text = questions.told(answer)
    assert answer.deploy in text
    assert "| recommended | " in text
    assert text.count("```") == 4


def test_what_binds_the_search_is_refused_by_name() -> None:
    """A promise that cannot be read costs no run."""
    with pytest.raises(ValueError, match="nothing of that name"):
        questions.recommend(QUESTION, "speed<=1s")
