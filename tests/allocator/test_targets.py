"""Each formula of upstream's targets, as a table of integers (ipamd.go, data_store.go)."""

from math import inf

import pytest

from cni.allocator.model import PoolCounts
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix, WarmTarget


def ips(total: int, assigned: int, per_eni: int = 9) -> PoolCounts:
    """Return counts of a pool of secondary IPs."""
    free = total - assigned
    return PoolCounts(total, assigned, 0, free, total, free, 1, per_eni, 1)


def prefixes(total: int, free: int, assigned: int, per_eni: int = 9) -> PoolCounts:
    """Return counts of a pool of prefixes, `free` of them without a sandbox."""
    return PoolCounts(total * 16, assigned, 0, total * 16 - assigned, total, free, 16, per_eni, 1)


@pytest.mark.parametrize(
    ("target", "counts", "wanted", "surplus"),
    [
        # Short of the warm or the minimum target; over both.
        (WarmIp(5), ips(0, 0), 5, 0),
        (WarmIp(5), ips(5, 0), 0, 0),
        (WarmIp(5), ips(5, 3), 3, 0),
        (WarmIp(5), ips(12, 3), 0, 4),
        (WarmIp(2, 10), ips(4, 3), 6, 0),
        (WarmIp(2, 10), ips(10, 9), 1, 0),
        (WarmIp(2, 10), ips(12, 3), 0, 2),
        (WarmIp(2, 10), ips(12, 11), 1, 0),
        (WarmIp(0, 3), ips(3, 3), 0, 0),
        (WarmIp(2, 23), ips(23, 19), 0, 0),
        # shortP = ceil(short / 16); overP is bounded by free prefixes, warm and minimum.
        (WarmIp(5), prefixes(0, 0, 0), 1, 0),
        (WarmIp(5), prefixes(1, 0, 11), 0, 0),
        (WarmIp(5), prefixes(1, 0, 12), 1, 0),
        (WarmIp(17), prefixes(0, 0, 0), 2, 0),
        (WarmIp(5), prefixes(3, 2, 11), 0, 2),
        (WarmIp(5), prefixes(3, 2, 12), 0, 1),
        (WarmIp(5), prefixes(3, 1, 11), 0, 1),
        (WarmIp(5, 33), prefixes(4, 4, 0), 0, 1),
        (WarmIp(5, 32), prefixes(4, 4, 0), 0, 2),
        # too low: available < 16 W, or W = 0 and available = 0; then at least one prefix.
        (WarmPrefix(1), prefixes(0, 0, 0), 1, 0),
        (WarmPrefix(1), prefixes(1, 1, 0), 0, 0),
        (WarmPrefix(1), prefixes(1, 0, 1), 1, 0),
        (WarmPrefix(2), prefixes(3, 1, 2), 0, 0),
        (WarmPrefix(2), prefixes(2, 0, 2), 2, 0),
        (WarmPrefix(1), prefixes(3, 3, 0), 0, 2),
        (WarmPrefix(0), prefixes(1, 0, 15), 0, 0),
        (WarmPrefix(0), prefixes(1, 0, 16), 1, 0),
        (WarmPrefix(0), prefixes(2, 1, 16), 0, 1),
        # too low: available < U W, or W = 0 and available = 0; single IPs never go.
        (WarmEni(1), ips(0, 0), 9, 0),
        (WarmEni(1), ips(9, 0), 0, 0),
        (WarmEni(1), ips(9, 1), 1, 0),
        (WarmEni(2), ips(18, 5), 5, 0),
        (WarmEni(0), ips(9, 8), 0, 0),
        (WarmEni(0), ips(9, 9), 1, 0),
        (WarmEni(1), ips(90, 0), 0, 0),
    ],
)
def test_wanted_and_surplus(
    target: WarmTarget, counts: PoolCounts, wanted: int, surplus: int
) -> None:
    """Blocks missing to a target, and blocks beyond it."""
    assert (target.wanted(counts), target.surplus(counts)) == (wanted, surplus)


@pytest.mark.parametrize(
    ("target", "counts", "looks"),
    [
        (WarmIp(5), ips(5, 5), True),
        (WarmPrefix(1), prefixes(1, 0, 9), True),
        (WarmEni(1), ips(18, 0), True),
        (WarmEni(1), ips(18, 1), False),
        (WarmEni(0), ips(18, 9), True),
        (WarmEni(0), ips(18, 10), False),
    ],
)
def test_when_an_eni_is_looked_for(target: WarmTarget, counts: PoolCounts, looks: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """IP and prefix targets always look; WarmEni at (W + 1) ENIs' worth available."""
    assert target.frees_enis(counts) is looks


@pytest.mark.parametrize(
    ("target", "rest", "goes"),
    [
        (WarmIp(5), ips(9, 4), True),
        (WarmIp(5), ips(9, 5), False),
        (WarmIp(0, 9), ips(9, 9), True),
        (WarmIp(0, 9), ips(8, 0), False),
        (WarmIp(5), prefixes(2, 1, 16), True),
        (WarmIp(5), prefixes(2, 1, 17), False),
        (WarmIp(5, 17), prefixes(1, 1, 0), False),
        (WarmIp(1, 0, prefixes_kept=1), prefixes(2, 0, 2), False),
        (WarmPrefix(1), prefixes(2, 1, 1), True),
        (WarmPrefix(1), prefixes(2, 0, 2), False),
        (WarmPrefix(0), prefixes(1, 0, 2), True),
        (WarmEni(1), ips(9, 0), True),
        (WarmEni(1), ips(9, 1), False),
    ],
)
def test_which_eni_can_go(target: WarmTarget, rest: PoolCounts, goes: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The others must meet the target alone, rounded up to whole prefixes (data_store.go:1042)."""
    assert target.eni_can_go(rest) is goes


@pytest.mark.parametrize(
    "target", [WarmIp(0), WarmIp(5), WarmIp(3, 12), WarmEni(0), WarmEni(1), WarmEni(2)]
)
def test_the_marks_tell_the_truth_for_secondary_ips(target: WarmTarget) -> None:
    """Between the marks nothing is wanted, and nothing is surplus."""
    for total in range(30):
        for assigned in range(total + 1):
            counts = ips(total, assigned)
            if counts.available >= target.low_water(counts) and total >= 12:
                assert target.wanted(counts) == 0
            if counts.available <= target.high_water(counts):
                assert target.surplus(counts) == 0
                assert not isinstance(target, WarmEni) or not target.frees_enis(counts)


@pytest.mark.parametrize("target", [WarmIp(5), WarmIp(5, 40), WarmPrefix(0), WarmPrefix(1)])
def test_the_marks_tell_the_truth_for_prefixes(target: WarmTarget) -> None:
    """As above, in every split of the assigned addresses over prefixes."""
    for total in range(3, 7):
        for free in range(total + 1):
            for assigned in range(total - free, (total - free) * 16 + 1):
                counts = prefixes(total, free, assigned)
                if counts.available >= target.low_water(counts):
                    assert target.wanted(counts) == 0
                if counts.available <= target.high_water(counts):
                    assert target.surplus(counts) == 0


def test_on_demand() -> None:
    """Only a target of no ENI and of no prefix keeps nothing warm."""
    on_demand = [t.on_demand for t in (WarmEni(0), WarmPrefix(0), WarmEni(1), WarmIp(0, 1))]
    assert on_demand == [True, True, False, False]
    assert WarmIp(0, 10).high_water(ips(5, 0)) == inf
