"""Which of two settings to deploy, by rules that are stated and few.

Service first: addresses are there for pods, so a setting that makes them wait loses, whatever
it saves. Among settings that serve, fewer addresses win, because subnets are finite; then
fewer mutating EC2 calls, because an account's nodes share their rate. A winner that is worse
in what comes later is called a trade-off, with the price.
"""

from dataclasses import dataclass
from typing import Literal

from sim.summary import Summary
from sim.tables import difference, number, seconds, share, told_apart, within

Side = Literal["a", "b"]

CLOSE_ADDRESSES = 0.02
CLOSE_CALLS = 0.05
"""Differences below these shares of the larger figure decide nothing."""

SMALL_SAVING = 0.10
MANY_TIMES = 2.0
"""A saving of addresses below this share does not pay for that many times the calls."""

THROTTLED = 0.01
"""With more than this share of calls throttled, the account's rate is what is scarce."""


@dataclass(frozen=True, slots=True)
class Slo:
    """When pods are served well enough: the p99 of waits, and the share of pods refused."""

    p99_wait_s: float = 1.0
    refused_share: float = 0.001

    def met_by(self, run: Summary) -> bool:
        """Tell whether a run keeps it; a run without pods does."""
        placed = run.served + run.waiting
        waited = run.wait_s.p99 or 0.0
        return waited <= self.p99_wait_s and run.refused_pods <= self.refused_share * placed

    @property
    def brief(self) -> str:
        """Say it in a few words."""
        return (
            f"99 % within {seconds(self.p99_wait_s)}, at most {share(self.refused_share)} "
            "refused at first"
        )

    def __str__(self) -> str:
        """Say it in words."""
        return (
            f"99 % of pods have an address within {seconds(self.p99_wait_s)}, and at most "
            f"{share(self.refused_share)} are refused at first"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which of two runs did better, and why.

    kind      clear: the winner is no worse in anything that counts; trade-off: it is, or no
              winner can be named; tie: nothing that counts differs
    winner    None for a tie, and for a trade-off that the record cannot decide
    headline  the answer in one sentence
    price     what the winner needs more of, in one sentence; empty where it needs nothing more
    reasons   service, addresses and calls, each with both figures
    caveats   what makes the comparison less than fair
    """

    kind: Literal["clear", "trade-off", "tie"]
    winner: Side | None
    headline: str
    price: str
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]


def rules(slo: Slo) -> tuple[str, ...]:
    """State the rules in words, in their order."""
    service = (
        f"Service first. Target: {slo}. If only one run meets it, that one wins. If neither "
        "does, fewer refused pods win, then the shorter p99 wait."
    )
    addresses = (
        "Then addresses. The run that takes fewer addresses on average (ENI primaries "
        f"included) wins; differences up to {share(CLOSE_ADDRESSES)} do not count."
    )
    calls = (
        "Then EC2. The run with fewer attempts of mutating calls wins; differences up to "
        f"{share(CLOSE_CALLS)} do not count."
    )
    trade_off = (
        "A winner that needs more of what comes later is a trade-off. It has no winner where "
        f"a saving of less than {share(SMALL_SAVING)} of the addresses costs more than "
        f"{MANY_TIMES:.0f} times the calls, or where more than {share(THROTTLED)} of the calls "
        "of the run with fewer addresses were throttled."
    )
    return service, addresses, calls, trade_off


def verdict(a: Summary, b: Summary, slo: Slo | None = None) -> Verdict:
    """Judge two runs of the same pods; `slo` defaults to `Slo()`."""
    target = slo or Slo()
    pair = _Pair(a, b)
    better = _Better(
        service=_better_service(a, b, target),
        addresses=_fewer(a.taken_mean, b.taken_mean, CLOSE_ADDRESSES),
        calls=_fewer(a.ec2_calls.mutating, b.ec2_calls.mutating, CLOSE_CALLS),
    )
    reasons = (_say_service(pair, target), _say_addresses(pair), _say_calls(pair))
    winner = better.service or better.addresses or better.calls
    if winner is None:
        text = "It makes no difference: waits, addresses and EC2 calls are nearly the same."
        return Verdict("tie", None, text, "", reasons, _caveats(a, b))
    if better.service is None and better.calls == _other(winner) and _too_dear(pair, winner):
        text = _say_undecided(pair, winner)
        return Verdict("trade-off", None, text, "", reasons, _caveats(a, b))
    prices = _prices(pair, winner, better)
    gain = _say_gain(pair, winner, better, target)
    if target.met_by(pair.run(winner)):
        text = f"Take {pair.name(winner)}: {gain}."
    else:
        text = f"Neither serves pods well, but {pair.name(winner)} is less bad: {gain}."
    price = f"The price: {' and '.join(prices)}." if prices else ""
    kind: Literal["clear", "trade-off"] = "trade-off" if prices else "clear"
    return Verdict(kind, winner, text, price, reasons, _caveats(a, b))


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two runs, by side."""

    a: Summary
    b: Summary

    def run(self, side: Side) -> Summary:
        return self.a if side == "a" else self.b

    def name(self, side: Side) -> str:
        return f"{side.upper()} ({told_apart(self.a, self.b)[0 if side == 'a' else 1]})"


@dataclass(frozen=True, slots=True)
class _Better:
    """The better side by each rule, or None where the rule does not decide."""

    service: Side | None
    addresses: Side | None
    calls: Side | None


# The rules.


def _better_service(a: Summary, b: Summary, target: Slo) -> Side | None:
    met, other_met = target.met_by(a), target.met_by(b)
    if met != other_met:
        return "a" if met else "b"
    if met:
        return None
    refused = _fewer(a.refused_pods, b.refused_pods, CLOSE_CALLS)
    return refused or _fewer(a.wait_s.p99 or 0.0, b.wait_s.p99 or 0.0, CLOSE_CALLS)


def _too_dear(pair: _Pair, thrifty: Side) -> bool:
    """Tell whether the saving of addresses does not settle it against the calls it costs."""
    run, other = pair.run(thrifty), pair.run(_other(thrifty))
    if run.ec2_calls.throttled_share > THROTTLED:
        return True
    saved = 1.0 - run.taken_mean / other.taken_mean
    return saved < SMALL_SAVING and run.ec2_calls.mutating > MANY_TIMES * other.ec2_calls.mutating


def _fewer(a: float, b: float, close: float) -> Side | None:
    """Return the side with less, None where the difference is too small to count."""
    if abs(a - b) <= close * max(a, b):
        return None
    return "a" if a < b else "b"


def _other(side: Side) -> Side:
    return "b" if side == "a" else "a"


def _prices(pair: _Pair, winner: Side, better: _Better) -> list[str]:
    """Say what the winner needs more of than the other."""
    run, other = pair.run(winner), pair.run(_other(winner))
    prices = []
    if better.addresses == _other(winner):
        prices.append(f"{_more(other.taken_mean, run.taken_mean)} addresses on average")
    if better.calls == _other(winner):
        change = _more(other.ec2_calls.mutating, run.ec2_calls.mutating)
        prices.append(f"{change} mutating EC2 calls")
    return prices


def _more(less: float, many: float) -> str:
    """Say how many more, and the same in per cent where there is something to compare with."""
    # Rounded first, so that the price and the reasons show the same percentage.
    less, many = round(less), round(many)
    change = f"{number(many - less)} more"
    return f"{change} (+{100.0 * (many - less) / less:,.0f} %)" if less else change


def _caveats(a: Summary, b: Summary) -> tuple[str, ...]:
    found = []
    if (a.trace, a.pods) != (b.trace, b.pods):
        found.append("The runs are not of the same pods.")
    if a.seed != b.seed:
        found.append("The runs do not share a seed: chance differs as well as the settings.")
    if a.unschedulable != b.unschedulable:
        found.append(
            f"{number(a.unschedulable)} pods fitted no node in A, {number(b.unschedulable)} in "
            "B: the figures are not of equally many pods."
        )
    return tuple(found)


# The words.


def _say_gain(pair: _Pair, winner: Side, better: _Better, target: Slo) -> str:
    run, other = pair.run(winner), pair.run(_other(winner))
    if better.service is not None:
        return _say_served(run, other, _other(winner).upper())
    well = target.met_by(run)
    served = "pods are served well in both" if well else "waits and refusals are much the same"
    if better.addresses is not None:
        both = f"{number(round(run.taken_mean))} against {number(round(other.taken_mean))}"
        saved = share(1.0 - run.taken_mean / other.taken_mean)
        return f"it takes {saved} fewer addresses ({both} on average), and {served}"
    both = f"{number(run.ec2_calls.mutating)} against {number(other.ec2_calls.mutating)}"
    return f"it makes fewer mutating EC2 calls ({both}) on as many addresses, and {served}"


def _say_served(run: Summary, other: Summary, loser: str) -> str:
    waits = f"99 % of pods have an address {within(run.wait_s.p99)}"
    if other.refused_pods != run.refused_pods:
        few = number(run.refused_pods) if run.refused_pods else "no"
        pods = "pod" if run.refused_pods == 1 else "pods"
        many = f"{number(other.refused_pods)} of {number(other.pods)}"
        return f"it refuses {few} {pods} at first, {loser} {many}; {waits}"
    return f"{waits}, in {loser} {within(other.wait_s.p99)}"


def _say_undecided(pair: _Pair, thrifty: Side) -> str:
    run, other = pair.run(thrifty), pair.run(_other(thrifty))
    saved = share(1.0 - run.taken_mean / other.taken_mean)
    calls = f"{number(run.ec2_calls.mutating)} against {number(other.ec2_calls.mutating)}"
    text = (
        f"A trade-off: {pair.name(thrifty)} takes {saved} fewer addresses but makes more "
        f"mutating EC2 calls than {pair.name(_other(thrifty))} ({calls})"
    )
    if run.ec2_calls.throttled_share > THROTTLED:
        text += f", and {share(run.ec2_calls.throttled_share)} of its calls were throttled"
    return (
        f"{text}. Take {thrifty.upper()} where subnets are short, "
        f"{_other(thrifty).upper()} where the rate of EC2 requests is."
    )


def _say_service(pair: _Pair, target: Slo) -> str:
    a, b = pair.a, pair.b
    met = (target.met_by(a), target.met_by(b))
    if met[0] != met[1]:
        which = f"Only {'A' if met[0] else 'B'} meets"
    else:
        which = "Both meet" if met[0] else "Neither meets"
    return f"Service: {_say_waits(a, b)}. {which} the target ({target.brief})."


def _say_waits(a: Summary, b: Summary) -> str:
    """Say how long pods waited and how many were refused; what is equal, once."""
    waits = within(a.wait_s.p99), within(b.wait_s.p99)
    same = waits[0] == waits[1]
    have = "99 % of pods have an address"
    waited = f"in both, {have} {waits[0]}" if same else f"{have} {waits[0]} in A, {waits[1]} in B"
    if a.refused_pods != b.refused_pods:
        counts = (a.refused_pods, b.refused_pods)
        first, second = ("none" if count == 0 else number(count) for count in counts)
        who = f"{first} is" if a.refused_pods == 0 else _pods(a.refused_pods)
        refused = f"{who} refused at first in A, {second} in B"
        return f"{waited}; {refused}"
    refused = f"{_pods(a.refused_pods)} refused at first" if a.refused_pods else "none is refused"
    return f"{waited} and {refused}" if same else f"{waited}; {refused} in both"


def _pods(count: int) -> str:
    return "1 pod is" if count == 1 else f"{number(count)} pods are"


def _say_addresses(pair: _Pair) -> str:
    a, b = round(pair.a.taken_mean), round(pair.b.taken_mean)
    return (
        f"Addresses: A takes {number(a)} on average, ENI primaries included, B {number(b)}: "
        f"{difference(a, b)}."
    )


def _say_calls(pair: _Pair) -> str:
    a, b = pair.a.ec2_calls, pair.b.ec2_calls
    shares = share(a.throttled_share), share(b.throttled_share)
    if shares[0] != shares[1]:
        throttled = f"{shares[0]} of all calls were throttled in A, {shares[1]} in B"
    elif a.throttled_share:
        throttled = f"{shares[0]} of all calls were throttled in both"
    else:
        throttled = "none was throttled"
    return (
        f"EC2: A makes {number(a.mutating)} mutating calls, B {number(b.mutating)}: "
        f"{difference(a.mutating, b.mutating)}; {throttled}."
    )
