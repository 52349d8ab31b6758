"""A fleet's record, split into those of its pools."""

from collections.abc import Sequence

import numpy as np
import pytest

from sim.metrics import summarise
from sim.node_pool import Autoscaling, Changes, SpotLoss
from sim.pools import of_pool, summaries
from sim.record import RunRecord
from sim.simulation import run
from tests.sim.test_fleet import fleet, pool_of, steady


def recorded() -> RunRecord:
    """Run two pools that share their pods; one of them grows and loses nodes."""
    changes = Changes(autoscaling=Autoscaling(2, 9), spot=SpotLoss(2.0))
    calm = pool_of("upstream", name="calm", nodes_first=2)
    return run(fleet(calm, pool_of(name="wild", nodes_first=2, changes=changes)), steady())


def test_pools_add_up_to_the_fleet() -> None:
    """Pods, calls, refusals and mean addresses of the pools are those of the fleet together."""
    record = recorded()
    whole, parts = summarise(record), list(summaries(record).values())

    def total(values: Sequence[float]) -> float:
        return float(sum(values))

    assert total([one.served for one in parts]) == whole.served
    assert total([one.present for one in parts]) == whole.present
    assert total([one.ec2_calls.total for one in parts]) == whole.ec2_calls.total
    assert total([sum(one.refusals.values()) for one in parts]) == sum(whole.refusals.values())
    assert total([one.taken_mean for one in parts]) == pytest.approx(whole.taken_mean)
    assert total([one.addresses.cooling.mean for one in parts]) == pytest.approx(
        whole.addresses.cooling.mean
    )


def test_a_pool_knows_its_own_nodes_alone() -> None:
    """Names, behaviour and numbers of nodes are the pool's."""
    record = recorded()
    calm, wild = of_pool(record, 0), of_pool(record, 1)

    assert calm.header.nodes == ("calm-0", "calm-1")
    assert (calm.header.behaviour, wild.header.behaviour) == ("upstream", "native")
    assert all(name.startswith("wild-") for name in wild.header.nodes)
    assert set(np.unique(wild.pods["node"])) <= set(range(len(wild.header.nodes)))
    assert len(calm.moves["t"]) == 0
    assert len(wild.moves["t"]) == len(record.moves["t"])
