"""Calls go to EC2 or to the metadata, and people are told where ENIs are."""

import asyncio
from ipaddress import IPv4Address

from cni.allocator.model import BlockKind, EniId
from cni.cloud.calls import (
    Call,
    CreateNetworkInterface,
    DescribeSubnets,
    Done,
    InterfaceCreated,
    InterfacesDescribed,
    Pause,
    ReadMetadata,
    Reply,
    SubnetsDescribed,
    UsableSubnet,
)
from cni.daemon.node_cloud import NodeCloud

IPS = BlockKind.SECONDARY_IP


class Ec2:
    """Makes ENIs by number."""

    made = 0

    async def answer(self, call: Call) -> Reply:
        match call:
            case CreateNetworkInterface():
                self.made += 1
                return InterfaceCreated(EniId(f"eni-{self.made}"), IPv4Address("10.0.0.9"), ())
            case DescribeSubnets():
                return SubnetsDescribed((UsableSubnet("b", 70), UsableSubnet("a", 0, own=True)))
            case _:
                return Done()


class Metadata:
    """Shows nothing."""

    async def reply(self, _call: ReadMetadata) -> InterfacesDescribed:
        return InterfacesDescribed(())


def test_subnets_are_known_from_the_calls_that_are_made_anyway() -> None:
    """No call is made for it: a subnet's free addresses are known once it has run dry."""
    cloud = NodeCloud(Ec2(), Metadata(), "a")

    async def script() -> None:
        assert await cloud.answer(ReadMetadata()) == InterfacesDescribed(())
        assert await cloud.answer(Pause(1.0)) == Done()
        await cloud.answer(CreateNetworkInterface(IPS, 1, "token"))
        await cloud.answer(CreateNetworkInterface(IPS, 1, "token-b", "b"))
        await cloud.answer(DescribeSubnets())

    asyncio.run(script())
    assert cloud.subnets == {"eni-1": "a", "eni-2": "b"}
    assert cloud.free_in_subnets == {"a": 0, "b": 70}
