"""What a daemon asks of EC2 when it starts, before it serves: the sequence of calls.

`native` follows `cni/daemon/agent.py`: the metadata, the node's ENIs, the ENIs that an earlier
life created and did not attach, which it deletes. `upstream` follows `ipamd.New` and `nodeInit`
(amazon-vpc-cni-k8s v1.23): the metadata and the ENIs by id; where EC2 refuses, the process ends
and the kubelet starts it again. The tags that both put on an untagged primary ENI are not
modelled: one CreateTags for each new node.
"""

from collections.abc import Generator, Sequence
from typing import Any

import simpy

from cni.allocator.behaviour import Behaviour
from cni.allocator.model import EniId
from cni.cloud.calls import (
    Call,
    CallError,
    DeleteNetworkInterface,
    DescribeNetworkInterfaces,
    Pause,
    ReadMetadata,
)
from sim.cloud import CloudModel

ASK_AGAIN_S = 5.0
"""Our daemon asks again after this long (cni/daemon/agent.py)."""

CRASH_BACKOFF_S = 10.0
"""The kubelet's first back-off for a container that ended."""

StartUp = Generator[simpy.Event, Any, None]


def start_up(cloud: CloudModel, behaviour: Behaviour, orphans: Sequence[EniId]) -> StartUp:
    """Make the calls; `orphans` are what an earlier life created and did not attach."""
    ours = not behaviour.tick_s
    again_s = ASK_AGAIN_S if ours else CRASH_BACKOFF_S
    yield from _patiently(cloud, ReadMetadata(), again_s)
    yield from _patiently(cloud, DescribeNetworkInterfaces(), again_s)
    if ours:
        # Our tag and "available" are the filter; what comes back are the orphans.
        yield from _patiently(cloud, DescribeNetworkInterfaces(), again_s)
        for eni_id in orphans:
            try:
                yield from cloud.answer(DeleteNetworkInterface(eni_id))
            except CallError:
                continue  # The sweep for leaked ENIs comes by later.


def _patiently(cloud: CloudModel, call: Call, again_s: float) -> Generator[simpy.Event, Any, Any]:
    """Ask until EC2 answers."""
    while True:
        try:
            return (yield from cloud.answer(call))
        except CallError:
            # From half as long to half as long again, as the daemon does it.
            yield from cloud.answer(Pause(again_s / 2, jitter=2.0))
