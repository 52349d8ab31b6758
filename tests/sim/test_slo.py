import math

import pytest

from sim.slo import DEFAULT, Limit, SloError, parse_slo


def test_the_default_promise() -> None:
    """Seconds, and shares between 0 and 1."""
    assert [(one.figure, one.most) for one in parse_slo(DEFAULT)] == [
        ("wait_p99_s", 1.0),
        ("refused_share", 0.001),
        ("throttled_share", 0.01),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "write NAME<=VALUE"),
        ("p99_wait<1s", "write NAME<=VALUE"),
        ("p99_wait<=1s,", "write NAME<=VALUE"),
        ("p99_wait<=-1s", "write NAME<=VALUE"),
        ("p99_wait<=nan", "write NAME<=VALUE"),
        ("p99wait<=1s", 'did you mean "p99_wait"'),
        ("p99_wait<=1%", "a time with ms, s, min or h"),
        ("p99_wait<=1", "a time with ms, s, min or h"),
        ("refused<=1s", "a share, such as"),
        ("refused<=101%", "0% to 100%"),
        ("refused<=2", "0% to 100%"),
        ("taken<=5s", "a count"),
        ("refused<=1%,refused<=2%", "limited twice"),
    ],
)
def test_a_promise_that_cannot_be_read_is_refused(text: str, told: str) -> None:
    """One line says which part, and what is allowed."""
    with pytest.raises(SloError, match="--slo") as refused:
        parse_slo(text)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_excess() -> None:
    """A limit of nothing is broken beyond measure; a figure that is not there breaks none."""
    assert Limit("refused", 0.0).excess({"refused_share": 0.0}) == 0.0
    assert Limit("refused", 0.0).excess({"refused_share": 0.1}) == math.inf
    assert Limit("p99_wait", 1.0).excess({"wait_p99_s": math.nan}) == 0.0
