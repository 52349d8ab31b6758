"""The verdict follows its stated rules, and names both figures of what it weighs."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.summary import Addresses, Ec2Calls, Quantiles, Spread, SubnetLow, Summary
from sim.verdict import Slo, rules, verdict


def run(
    *,
    held: float = 200.0,
    mutating: int = 100,
    p99: float = 0.0,
    refused: int = 0,
    throttled: float = 0.0,
    **changes: object,
) -> Summary:
    """Describe a run of 1,000 pods by the figures that the rules look at."""
    flat = Spread(0.0, 0, 0)
    summary = Summary(
        pods=1000,
        served=1000,
        waiting=0,
        unschedulable=0,
        unschedulable_by_resource={},
        wait_s=Quantiles(0.0, 0.0, p99, p99),
        at_once_of_served=1.0,
        at_once_of_all=1.0,
        refusals={"pool_empty": refused} if refused else {},
        refused_pods=refused,
        addresses=Addresses(Spread(held, 0, 0), flat, flat, flat, flat),
        utilisation=0.5,
        subnets={"10.0.0.0/24": SubnetLow(None, None, None)},
        ec2_calls=Ec2Calls({}, {}, mutating, mutating, 0, throttled, 0),
        churn_pairs=0,
        behaviour="upstream",
        settings={"WARM_IP_TARGET": str(round(held))},
        instance="m5.large",
        nodes=10,
        seed=1,
        trace="trace.csv",
        trace_notes=(),
        warnings=(),
        scenario={},
        end_s=3600.0,
    )
    return dataclasses.replace(summary, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b", "kind", "winner"),
    [
        # Service first: only one meets the target.
        (run(held=100, p99=12.0), run(held=400), "trade-off", "b"),
        (run(held=400, refused=2), run(held=300), "clear", "b"),
        (run(held=100, p99=1.0, refused=1), run(held=400), "clear", "a"),  # meets it, just so
        # Neither meets it: fewer refused pods, then the shorter wait.
        (run(refused=50, p99=20.0), run(refused=10, p99=30.0), "clear", "b"),
        (run(p99=20.0), run(p99=30.0), "clear", "a"),
        (run(p99=20.0), run(p99=20.5, held=100), "clear", "b"),  # as good as equal
        # Then addresses.
        (run(held=200), run(held=150), "clear", "b"),
        (run(held=200), run(held=197), "tie", None),
        (run(held=200, mutating=150), run(held=300), "trade-off", "a"),
        # Then calls.
        (run(mutating=90), run(mutating=100), "clear", "a"),
        (run(mutating=96), run(mutating=100), "tie", None),
        # Where fewer addresses do not settle it.
        (run(held=185, mutating=201), run(held=200), "trade-off", None),
        (run(held=185, mutating=199), run(held=200), "trade-off", "a"),
        (run(held=100, mutating=200, throttled=0.02), run(held=200), "trade-off", None),
        # Throttling settles nothing where the thrifty run makes no more calls.
        (run(held=100, throttled=0.02), run(held=200), "clear", "a"),
    ],
)
def test_rules(a: Summary, b: Summary, kind: str, winner: str | None) -> None:
    """Each rule, at its border."""
    judged = verdict(a, b)
    assert (judged.kind, judged.winner) == (kind, winner)
    assert len(judged.reasons) == 3


def test_words_of_a_clear_winner() -> None:
    """The headline names the side, its setting and the saving."""
    judged = verdict(run(held=200), run(held=150))
    assert judged.headline == (
        "Take B (WARM_IP_TARGET=150): it takes 25 % fewer addresses (150 against 200 on "
        "average), and pods are served well in both."
    )
    assert judged.price == ""
    assert judged.caveats == ()


def test_words_of_a_trade_off() -> None:
    """The price stands beside the winner; without a winner, both sides get their advice."""
    judged = verdict(run(held=100, p99=12.0, refused=30), run(held=400))
    assert judged.headline == (
        "Take B (WARM_IP_TARGET=400): it refuses no pods at first, A 30 of 1,000; 99 % of pods "
        "have an address at once."
    )
    assert judged.price == "The price: 300 more (+300 %) addresses on average."
    judged = verdict(run(held=100, mutating=200, throttled=0.02), run(held=200))
    assert "2.0 % of its calls were throttled" in judged.headline
    assert "Take A where subnets are short, B where the rate of EC2 requests is." in judged.headline


def test_what_is_equal_is_said_once() -> None:
    """Waits and refusals of both runs read naturally, and the target stands beside them."""
    target = "the target (99 % within 1 s, at most 0.1 % refused at first)."
    assert verdict(run(), run(held=100)).reasons[0] == (
        "Service: in both, 99 % of pods have an address at once and none is refused. "
        f"Both meet {target}"
    )
    assert verdict(run(p99=12.0, refused=1), run()).reasons[0] == (
        "Service: 99 % of pods have an address within 12 s in A, at once in B; 1 pod is refused "
        f"at first in A, none in B. Only B meets {target}"
    )
    assert verdict(run(p99=12.0, refused=5), run(refused=5)).reasons[0] == (
        "Service: 99 % of pods have an address within 12 s in A, at once in B; 5 pods are "
        f"refused at first in both. Neither meets {target}"
    )
    assert (
        verdict(run(throttled=0.02), run())
        .reasons[2]
        .endswith("; 2.0 % of all calls were throttled in A, 0 % in B.")
    )


def test_the_less_bad_of_two() -> None:
    """Where neither serves well, that comes first."""
    judged = verdict(run(refused=14, p99=3.0), run(refused=310, p99=3.0))
    assert judged.headline == (
        "Neither serves pods well, but A (the same settings) is less bad: it refuses 14 pods at "
        "first, B 310 of 1,000; 99 % of pods have an address within 3 s."
    )
    judged = verdict(run(refused=14), run(refused=14, held=100.0))
    assert judged.headline.endswith(" on average), and waits and refusals are much the same.")


def test_the_target_can_be_changed() -> None:
    """A wait that is too long by default is fine for who says so, and the rules say it."""
    a, b = run(held=100, p99=12.0), run(held=400)
    assert verdict(a, b).winner == "b"
    patient = Slo(p99_wait_s=30.0, refused_share=0.01)
    assert verdict(a, b, patient).winner == "a"
    assert "within 30 s, and at most 1.0 % are refused" in rules(patient)[0]


def test_caveats_tell_what_is_not_comparable() -> None:
    """Other pods, another seed, and pods that fitted no node."""
    b = run(trace="other.csv", seed=2, unschedulable=5, served=995)
    assert len(verdict(run(), b).caveats) == 3


FIGURES = st.builds(
    run,
    held=st.integers(0, 500).map(float),
    mutating=st.integers(0, 500),
    p99=st.sampled_from([0.0, 0.5, 1.0, 12.0, 13.0]),
    refused=st.integers(0, 20),
    throttled=st.sampled_from([0.0, 0.005, 0.5]),
)


@given(a=FIGURES, b=FIGURES)
def test_the_order_of_the_runs_does_not_matter(a: Summary, b: Summary) -> None:
    """Exchanging A and B exchanges the winner; no figures make it fail; a run ties with itself."""
    one, other = verdict(a, b), verdict(b, a)
    assert one.kind == other.kind
    assert other.winner == {"a": "b", "b": "a", None: None}[one.winner]
    assert (one.price == "") == (one.kind != "trade-off" or one.winner is None)
    assert verdict(a, a).kind == "tie"
