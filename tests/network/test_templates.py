import random
from ipaddress import IPv4Address
from typing import Any

import pytest

from cni.network.batches import (
    ALL_BATCHES,
    Batch,
    Placement,
    farewell,
    host_side,
    make_pair,
)
from cni.network.desired import MAIN_TABLE, PodNetwork
from cni.network.messages import decode
from cni.network.templates import Templates, derive


def a_placement(draw: random.Random, table: int) -> Placement:
    """Make a pod up, with bytes in its values that have every look."""
    pod = PodNetwork(
        host_link=f"eni{draw.randrange(16**11):011x}",
        ifname="eth0",
        address=IPv4Address(draw.randrange(1, 2**32)),
        table=table,
        mtu=9001,
    )
    return Placement(
        pod,
        netns_fd=draw.randrange(3, 2**20),
        host_mac=draw.randbytes(6),
        pod_mac=draw.randbytes(6),
        host_index=draw.randrange(1, 2**31),
        pod_index=draw.randrange(1, 2**31),
    )


def messages_in(batch: bytes) -> list[Any]:
    """Decode a batch with pyroute2, message by message."""
    found, start = [], 0
    while start < len(batch):
        length = int.from_bytes(batch[start : start + 4], "little")
        found.append(decode(batch[start : start + length]))
        start += length
    return found


@pytest.mark.parametrize("batch", ALL_BATCHES)
@pytest.mark.parametrize("table", [MAIN_TABLE, 2, 3, 16])
def test_a_patched_template_is_what_pyroute2_encodes(batch: Batch, table: int) -> None:
    """For any pod, the patched bytes are those that pyroute2 makes for it from scratch."""
    draw = random.Random(table)
    template = derive(batch, a_placement(draw, table).pod)

    for _ in range(50):
        placed = a_placement(draw, table)

        filled = template.fill(placed.values())

        assert bytes(filled) == b"".join(request.data for request in batch(placed))


def test_pyroute2_reads_a_pods_values_out_of_its_batch() -> None:
    """Whatever wrote them, the decoder finds each value where the kernel will look for it."""
    draw = random.Random(7)
    template = derive(make_pair, a_placement(draw, 5).pod)
    placed = a_placement(draw, 5)

    create, look = messages_in(bytes(template.fill(placed.values())))

    info = create.get_attr("IFLA_LINKINFO")
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert create.get_attr("IFLA_IFNAME") == look.get_attr("IFLA_IFNAME") == placed.pod.host_link
    assert create.get_attr("IFLA_ADDRESS") == placed.host_mac.hex(":")
    assert peer.get_attr("IFLA_ADDRESS") == placed.pod_mac.hex(":")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_NET_NS_FD") == placed.netns_fd
    assert (create.get_attr("IFLA_MTU"), peer.get_attr("IFLA_MTU")) == (9001, 9001)


def test_every_value_of_a_pod_stands_somewhere() -> None:
    """A value that no template has a place for would be the first pod's for ever."""
    placed = a_placement(random.Random(1), 4)

    places = {name for batch in ALL_BATCHES for name, _ in derive(batch, placed.pod).places}

    assert places == set(placed.values())


def test_pods_of_another_shape_get_a_template_of_their_own() -> None:
    """Another interface name, MTU or kind of ENI changes more than can be patched."""
    draw, templates = random.Random(3), Templates()
    one = a_placement(draw, MAIN_TABLE).pod
    other = a_placement(draw, MAIN_TABLE).pod
    secondary = a_placement(draw, 7).pod

    assert templates.template(host_side, one) is templates.template(host_side, other)
    assert templates.template(host_side, one) is not templates.template(host_side, secondary)
    assert len(templates.template(host_side, secondary).accepted) == 4


def test_invented_interface_names_do_not_fill_the_memory() -> None:
    """A runtime names the interface; ten thousand names keep a few dozen templates."""
    templates = Templates()
    pod = a_placement(random.Random(1), MAIN_TABLE).pod

    for number in range(200):
        named = PodNetwork(pod.host_link, f"net{number}", pod.address, pod.table, pod.mtu)
        templates.template(farewell, named)

    assert len(templates._made) <= 64
