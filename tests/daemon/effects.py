"""Who lets a call take effect in the lockstep test: the model itself, or boto3 against the lab."""

import asyncio
from typing import Any

from cni.allocator.model import EniId
from cni.cloud.calls import (
    Call,
    CallError,
    CreateNetworkInterface,
    InterfaceCreated,
    ReadMetadata,
    Reply,
)
from cni.cloud.codes import reason_of
from sim.cloud import Account, CallFault, CloudModel
from sim.ec2_error import Ec2Error
from tests.daemon.scripts import INSTANCE, SUBNET, Script


class _LoopTime:
    """What a CloudModel asks of its environment when it does not wait."""

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()


class ModelEffect:
    """The effects of `sim/cloud.py` itself: what differs then is the driver's fault."""

    def __init__(self, script: Script) -> None:
        env: Any = _LoopTime()
        self.vpc = vpc = script.vpc()
        vpc.launch_instance(INSTANCE, script.shape, SUBNET, 0.0)
        self.cloud = CloudModel(env, Account.of(script.numbers, vpc), INSTANCE, script.draws())
        self.created: dict[str, EniId] = {}
        """Which ENI each client token made."""

    async def __call__(self, call: Call, fault: CallFault | None) -> Reply:
        now = asyncio.get_running_loop().time()
        if isinstance(call, ReadMetadata):
            return self.cloud._metadata.read(now)
        try:
            reply = self.cloud._arrive(call, fault or CallFault())
        except Ec2Error as error:
            reason = reason_of(error.code, error.message)
            raise CallError(reason, error.code, error.message) from error
        if isinstance(call, CreateNetworkInterface):
            assert isinstance(reply, InterfaceCreated)
            self.created[call.client_token] = reply.eni_id
        return reply

    def visible_at(self, eni_id: EniId) -> float:
        """Return when the metadata shows, or will show, an ENI."""
        return self.cloud._metadata._versions[eni_id][0][0]
