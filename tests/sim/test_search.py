"""The search for settings, on figures made up so that the best one is known."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sim.cell import Result
from sim.search import Choice, Space, Trials, search
from sim.slo import parse_slo

Law = Callable[[Choice], tuple[float, float]]
"""Addresses and refused share of a choice."""


class Figures:
    """Answers like a bench, by a law."""

    def __init__(self, law: Law) -> None:
        self._law = law

    def results(self, tasks: Sequence[tuple[Choice, int]]) -> list[Result]:
        """Return figures; the second seed takes a little more, and refuses no more."""
        found = []
        for choice, seed in tasks:
            taken, refused = self._law(choice)
            figures = {"taken_mean": taken + seed / 100, "refused_share": refused, "mutating": 1.0}
            found.append(Result(figures, ""))
        return found


def best_of(law: Law, room: dict[bool, int]) -> Choice:
    """Search, and return the best."""
    bench: Any = Figures(law)
    made: Any = lambda choice, seed: (choice, seed)  # noqa: E731
    trials = Trials(bench, made, parse_slo("refused<=1%"), (0, 1), task=lambda one: one)  # type: ignore[arg-type, return-value]
    found = search(trials, Space(room, 2.4), 150)
    assert trials.runs <= 150
    return found[0]


@pytest.mark.parametrize("least", [3, 7, 9, 10, 11, 15, 23])
def test_what_lies_between_coarse_values_is_found(least: int) -> None:
    """Also where a coarse value of another mode looks better than all of this one that keep it.

    A warm target below `least` breaks the promise, and the next coarse one above is far dearer
    than prefixes are.
    """

    def law(choice: Choice) -> tuple[float, float]:
        if choice.prefixes:
            return 10 + 4 * least + 5, 0.0
        if choice.rule == "whole":
            return 500, 0.0
        return 10 + 4 * max(choice.warm, choice.minimum), 0.0 if choice.warm >= least else 0.13

    assert best_of(law, {False: 27, True: 110}) == Choice(False, "ip", least)


def test_a_mode_that_cannot_be_better_is_not_refined() -> None:
    """Its runs are kept for the one that can."""
    tried: set[Choice] = set()

    def law(choice: Choice) -> tuple[float, float]:
        tried.add(choice)
        return (90.0 if choice.prefixes else 20.0) + choice.warm + choice.minimum, 0.0

    assert best_of(law, {False: 27, True: 110}) == Choice(False, "ip", 1)
    coarse = set(Space({False: 27, True: 110}, 2.4).coarse())
    assert {choice for choice in tried if choice.prefixes} <= coarse
