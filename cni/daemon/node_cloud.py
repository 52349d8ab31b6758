"""EC2 and the metadata as the recipes call them, and what their answers tell besides."""

from collections.abc import Iterable
from typing import Protocol

from cni.allocator.model import EniId
from cni.cloud.calls import (
    Call,
    CreateNetworkInterface,
    InterfaceCreated,
    InterfacesDescribed,
    ReadMetadata,
    Reply,
    SubnetsDescribed,
)
from cni.cloud.described import DescribedEni


class Ec2(Protocol):
    """What is needed of `cni.cloud.ec2.Ec2`."""

    async def answer(self, call: Call) -> Reply:
        """Answer a call to EC2, or raise CallError."""
        ...


class Imds(Protocol):
    """What is needed of `cni.cloud.imds.Imds`."""

    async def reply(self, call: ReadMetadata) -> InterfacesDescribed:
        """Answer a read of the metadata, or raise CallError."""
        ...


class NodeCloud:
    """Answers calls, and remembers for people where ENIs are and how full subnets were."""

    def __init__(
        self, ec2: Ec2, imds: Imds, own_subnet: str, known: Iterable[DescribedEni] = ()
    ) -> None:
        """Answer from these two; ENIs go to `own_subnet` unless a call says otherwise."""
        self._ec2 = ec2
        self._imds = imds
        self._own_subnet = own_subnet
        self.subnets: dict[EniId, str] = {eni.eni_id: eni.subnet_id for eni in known}
        """The subnet of every ENI that was there at the start or was made since."""
        self.free_in_subnets: dict[str, int] = {}
        """Addresses that were free when EC2 was last asked: not before a subnet ran dry."""

    async def answer(self, call: Call) -> Reply:
        """Answer a call, or raise CallError."""
        if isinstance(call, ReadMetadata):
            return await self._imds.reply(call)
        reply = await self._ec2.answer(call)
        if isinstance(reply, InterfaceCreated):
            assert isinstance(call, CreateNetworkInterface), call
            self.subnets[reply.eni_id] = call.subnet_id or self._own_subnet
        elif isinstance(reply, SubnetsDescribed):
            self.free_in_subnets = {one.subnet_id: one.free for one in reply.subnets}
        return reply
