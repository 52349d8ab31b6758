"""Whole blocks, and a picture of them, that agree with the subnet's own bitmap."""

import numpy as np
import pytest

from sim import fragments
from sim.streams import stream
from sim.subnet import Subnet

CIDR = "10.0.0.0/24"


def test_an_empty_subnet_lacks_the_two_blocks_that_ec2_uses() -> None:
    """EC2 keeps the first four addresses and the last one."""
    (row,) = fragments.whole_blocks(CIDR, [0.0]).to_dict("records")

    assert row == {"used": 0.0, "free": 251, "blocks": 15, "whole": 14.0, "whole_least": 14}


@pytest.mark.parametrize("used", [0.02, 0.1, 0.4])
def test_blocks_stay_whole_by_chance(used: float) -> None:
    """A block is whole with the chance (1 - used) ** 16, within four standard deviations."""
    (row,) = fragments.whole_blocks("10.0.0.0/18", [used], seeds=8).to_dict("records")

    chance = (1 - used) ** 16
    blocks = 1022
    spread = (blocks * chance * (1 - chance) / 8) ** 0.5
    assert abs(row["whole"] - blocks * chance) < 4 * spread + 1


def test_others_get_no_address_of_a_reserved_range() -> None:
    """So its blocks stay whole however many addresses others hold."""
    frame = fragments.whole_blocks(CIDR, [0.0, 0.4], prefixes=["10.0.0.128/26"])

    assert frame["whole_least"].iloc[1] >= 4
    states = fragments.addresses(CIDR, 0.4, prefixes=["10.0.0.128/26"])
    assert (states.loc["10.0.0.128/28":"10.0.0.176/28"] == 3).all(axis=None)


@pytest.mark.parametrize("used", [0.0, 0.05, 0.3])
def test_the_picture_is_that_of_the_subnet(used: float) -> None:
    """As many addresses are used, and as many blocks whole, as the subnet itself counts."""
    subnet = Subnet("subnet-0", CIDR, stream(3, "placement", CIDR), already_used=used)

    states = fragments.addresses(CIDR, used, seed=3)

    assert (states == 2).sum().sum() == 256 - subnet.free
    assert (states == 0).all(axis=1).sum() == subnet.free_prefixes
    mixed = ((states == 0).any(axis=1)) & ((states != 0).any(axis=1))
    assert not mixed.any(), "a block is whole or broken"


def test_a_bad_range_is_refused() -> None:
    """By the subnet's own words."""
    with pytest.raises(ValueError, match="not inside subnet"):
        fragments.whole_blocks(CIDR, [0.0], prefixes=["10.0.1.0/28"])


def test_a_plan_carries_the_reservations() -> None:
    """What others use lies outside of them."""
    plan = fragments.reserved(CIDR, used=0.1, prefixes=["10.0.0.128/25"])

    assert (plan.cidr, plan.used, len(plan.reservations)) == (CIDR, 0.1, 1)
    assert np.isclose(plan.used, 0.1)
