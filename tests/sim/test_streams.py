"""Random numbers depend on seed and names, and on nothing else."""

from statistics import fmean, pstdev

from sim.streams import Draws, stream


def test_streams_are_fixed_for_ever() -> None:
    """The numbers of a name are the same on every machine, so that a baseline stays valid."""
    assert stream(1, "placement").random() == 0.5426351601406634
    assert Draws(1, "node-1").uniform("latency") == 0.9725348756620437


def test_names_are_kept_apart() -> None:
    """Neither joining names differently nor another seed gives the same numbers."""
    numbers = [
        stream(1, "a", "b").random(),
        stream(1, "ab").random(),
        stream(1, "b", "a").random(),
        stream(2, "a", "b").random(),
    ]

    assert len(set(numbers)) == 4


def test_a_draw_depends_on_its_number_and_not_on_other_names() -> None:
    """The n-th draw of a name is the same whatever was drawn for others in between."""
    alone, mixed = Draws(1, "node-1"), Draws(1, "node-1")
    wanted = [alone.uniform("a") for _ in range(5)]
    got = []
    for number in range(5):
        for _ in range(number):
            mixed.uniform("b")
        got.append(mixed.uniform("a"))

    assert got == wanted


def test_draws_are_uniform() -> None:
    """Mean and deviation of many draws are those of a uniform variable in (0, 1)."""
    draws = Draws(1, "node-1")
    numbers = [draws.uniform("a") for _ in range(20_000)]

    assert abs(fmean(numbers) - 0.5) < 0.01
    assert abs(pstdev(numbers) - 12**-0.5) < 0.005
    assert 0 < min(numbers) < max(numbers) < 1
