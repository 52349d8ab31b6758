import numpy as np
import pytest

from cni.settings import Settings
from sim.node_type import NodeType
from sim.one_node import hold
from sim.sweep import holdings, nodes_in

XEN = NodeType("m4.4xlarge", 8, 30, prefixes_allowed=False)
SMALL = NodeType("m5.large", 3, 10)
PREFIXES = Settings(enable_prefix_delegation=True)


def test_the_announced_table() -> None:
    """m4.4xlarge by default: 29 secondary addresses without a pod, 240 addresses at 204."""
    frame = holdings([XEN], {"default": Settings()}, [0, 50, 100, 204])
    assert frame[["enis", "addresses", "taken"]].to_numpy().tolist() == [
        [1, 29, 30],
        [3, 87, 90],
        [5, 145, 150],
        [8, 232, 240],
    ]


def test_rows_end_where_addresses_do_and_prefixes_need_a_type_that_takes_them() -> None:
    """Nothing is shown that a node cannot hold."""
    frame = holdings([XEN, SMALL], {"one": Settings(), "prefixes": PREFIXES}, [0, 27, 28])
    shown = frame.groupby(["instance", "setting"], observed=True)["pods"].agg(list).to_dict()
    assert shown == {
        ("m4.4xlarge", "one"): [0, 27, 28],
        ("m5.large", "one"): [0, 27],
        ("m5.large", "prefixes"): [0, 27, 28],
    }


def test_pivots_keep_the_order_of_the_caller() -> None:
    """Types and settings stand as they were given, not as they are spelt."""
    settings = {"z": Settings(), "a": Settings(warm_ip_target=5)}
    frame = holdings([SMALL, NodeType("a1.medium", 2, 4)], settings, [1])
    table = frame.pivot(index="instance", columns="setting", values="taken")
    assert (list(table.index), list(table.columns)) == (["m5.large", "a1.medium"], ["z", "a"])


def test_a_share_of_nothing_is_no_number() -> None:
    """A node that holds no address has no idle share."""
    frame = holdings([SMALL], {"none": Settings(warm_eni_target=0)}, [0])
    assert frame["addresses"].tolist() == [0]
    assert np.isnan(frame["idle_share"]).all()


def test_no_row_is_a_table_too() -> None:
    """Without rows the columns are there all the same."""
    frame = holdings([XEN], {"prefixes": PREFIXES}, [1], subnet="10.0.0.0/24")
    assert frame.empty
    assert list(frame.columns)[-1] == "nodes"


def test_secondary_addresses_fill_a_subnet_to_the_last_node() -> None:
    """Without prefixes as many nodes fit as division says, whatever chance does."""
    (held,) = hold(SMALL, Settings(), [20])
    for seed in range(5):
        assert nodes_in("10.0.0.0/22", held, seed=seed) == 1019 // 30


def test_primaries_break_blocks_that_prefixes_need() -> None:
    """With prefixes fewer nodes fit than addresses suffice for."""
    (held,) = hold(SMALL, PREFIXES, [20])
    for seed in range(5):
        assert 0.7 * (1019 // 49) <= nodes_in("10.0.0.0/22", held, seed=seed) < 1019 // 49


def test_bad_input_is_refused() -> None:
    """A subnet that is none, and counts below zero, are the caller's error."""
    with pytest.raises(ValueError, match="mask length"):
        holdings([SMALL], {"default": Settings()}, [1], subnet="10.0.0.0")
    with pytest.raises(ValueError, match="0 and more"):
        holdings([SMALL], {"default": Settings()}, [-1])
