"""What somebody else does to a node's ENIs is noticed, and EC2 is asked before it is believed."""

from ipaddress import IPv4Address, IPv4Network

from cni.allocator.model import AttachedEni, EniId
from cni.daemon.comparison import AGAIN_MAX_S, Comparison, differences

PERIOD_S = 60.0


def eni(index: int, *blocks: str) -> AttachedEni:
    """Return an ENI with these secondary IPs."""
    addresses = tuple(IPv4Network(block) for block in blocks)
    return AttachedEni(EniId(f"eni-{index}"), index, IPv4Address("10.0.0.5"), addresses)


def test_every_difference_has_its_words() -> None:
    """ENIs and blocks that one side lacks; an ENI that is not ours is none."""
    pool = [eni(0, "10.0.0.6", "10.0.0.7"), eni(1)]
    shown = [eni(0, "10.0.0.7", "10.0.0.8"), eni(2), eni(3)]

    assert differences(pool, shown, {3}) == {
        "eni-0 lacks 10.0.0.6/32",
        "eni-0 has 10.0.0.8/32",
        "eni-1 is not there",
        "eni-2 is not in the pool",
    }
    assert not differences(pool, pool, ())


def asked(found: list[set[str]]) -> list[int]:
    """Return at which looks, of one a minute, EC2 is asked."""
    comparison = Comparison()
    return [
        number
        for number, one in enumerate(found)
        if comparison.look(frozenset(one), number * PERIOD_S, PERIOD_S)
    ]


def test_a_difference_counts_when_it_lasts() -> None:
    """The metadata lags behind EC2 for seconds: one look may see what is over at the next."""
    assert asked([{"a"}, {"b"}, set(), {"a"}]) == []
    assert asked([{"a"}, {"a", "b"}]) == [1]


def test_what_stays_is_asked_about_ever_more_rarely() -> None:
    """An ENI that can never be used must not cost a request a minute, for ever."""
    looks = asked([{"a"}] * 1000)

    assert looks[:5] == [1, 2, 4, 8, 16]
    assert looks[-1] - looks[-2] == AGAIN_MAX_S / PERIOD_S


def test_what_is_new_is_asked_about_at_once() -> None:
    """An old difference hides no other one."""
    assert asked([{"a"}] * 20 + [{"a", "b"}] * 2)[-1] == 21
