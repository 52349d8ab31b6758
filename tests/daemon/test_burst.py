"""200 ADDs at once on a node that holds 20 free addresses: as fast as EC2 allows, not slower.

The daemon's maintainer on virtual time, against EC2's latencies as drawn. The critical path is
what those latencies leave when every call that is needed starts at once.
"""

from math import inf

import pytest

from cni.allocator.behaviour import NATIVE
from cni.allocator.model import BlockKind
from cni.allocator.targets import WarmIp
from cni.cloud.calls import (
    AssignPrivateIpAddresses,
    AttachNetworkInterface,
    CreateNetworkInterface,
    ModifyNetworkInterfaceAttribute,
)
from sim.vpc import InstanceShape
from tests.daemon import daemon_driver
from tests.daemon.daemon_driver import Played
from tests.daemon.effects import ModelEffect
from tests.daemon.scripts import Pod, Script

BURST_AT = 100.0
PODS = 200
FREE = 20


def burst(seed: int, kind: BlockKind) -> Script:
    """Return a node of 15 x 49 that holds 20 free addresses, and 200 pods at once."""
    pods = tuple(Pod(f"pod-{number}", BURST_AT, inf) for number in range(PODS))
    return Script(
        seed=seed,
        kind=kind,
        behaviour=NATIVE,
        target=WarmIp(FREE, 0),
        shape=InstanceShape(15, 50),
        cidr="10.0.0.0/19",
        pods=pods,
        faults={},
        restart_at=inf,
        pods_max=737,
    )


def critical_path(played: Played) -> float:
    """Return seconds from the burst to the last address, as EC2's latencies alone would have it.

    Every call that was needed starts at once; an ENI takes its three calls, and the time until
    the metadata shows it, which runs from the moment the attach takes effect.
    """
    effect = played.effect
    assert isinstance(effect, ModelEffect)
    took = {call: seconds for call, started, seconds in played.spans if started >= BURST_AT}
    ready: list[tuple[float, int]] = []
    for call, seconds in took.items():
        if isinstance(call, AssignPrivateIpAddresses):
            ready.append((seconds, call.count * call.kind.addresses))
        elif isinstance(call, CreateNetworkInterface):
            eni_id = effect.created[call.client_token]
            attach, at = next(
                (one, at)
                for one, at, _ in played.spans
                if isinstance(one, AttachNetworkInterface) and one.eni_id == eni_id
            )
            modify = next(
                span
                for one, _, span in played.spans
                if isinstance(one, ModifyNetworkInterfaceAttribute) and one.eni_id == eni_id
            )
            shown = effect.visible_at(eni_id) - at
            ready.append(
                (seconds + max(took[attach] + modify, shown), call.blocks * call.kind.addresses)
            )
    missing = PODS - FREE
    for at, brings in sorted(ready):
        missing -= brings
        if missing <= 0:
            return at
    raise AssertionError("the burst cannot be served by these calls")


def last_served(played: Played) -> float:
    """Return seconds from the burst to the last pod's address."""
    instants = [float(line[:11]) for line in played.lines if " is served " in line]
    return max(instants) - BURST_AT


@pytest.mark.parametrize("kind", list(BlockKind), ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", range(10))
def test_a_burst_is_served_as_soon_as_ec2_allows(seed: int, kind: BlockKind) -> None:
    """Nobody is refused, calls are as few as can be, the last waits 1.2 times what EC2 needs."""
    played = daemon_driver.play(burst(seed, kind), ModelEffect)

    assert not [line for line in played.lines if "refused" in line]
    assert sum(" has " in line or " is served " in line for line in played.lines) == PODS
    asked = [call for call, started, _ in played.spans if started >= BURST_AT]
    assigns = [call for call in asked if isinstance(call, AssignPrivateIpAddresses)]
    creates = [call for call in asked if isinstance(call, CreateNetworkInterface)]
    # 200 more addresses: 29 fit on the primary ENI, the others need four ENIs; or 12 or 13 /28s.
    assert len(assigns) == 1
    assert len(creates) == (4 if kind is BlockKind.SECONDARY_IP else 0)
    assert last_served(played) <= 1.2 * critical_path(played)


def test_attaches_run_side_by_side() -> None:
    """Four ENIs are created at one instant, not one after the other."""
    played = daemon_driver.play(burst(0, BlockKind.SECONDARY_IP), ModelEffect)

    starts = {
        started for call, started, _ in played.spans if isinstance(call, CreateNetworkInterface)
    }
    assert len(starts) == 1
