"""Real boto3 and real metadata reads against the lab's EC2, whose clock is the virtual loop's.

The endpoint runs in a thread of its own and answers at once; while it does, virtual time stands.
"""

import asyncio
import socket
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

import boto3
from botocore.config import Config

from cni.cloud.calls import Call, ReadMetadata, Reply
from cni.cloud.ec2 import Ec2, Timing
from cni.cloud.imds import Imds
from cni.cloud.options import ec2_options
from cni.cloud.pace import Pace
from cni.cloud.requests import Asker
from sim.cloud import CallFault
from sim.lab.account import LabVpc
from sim.lab.endpoint import LabCloud
from sim.lab.faults import LabFault
from sim.lab.services import Services
from sim.node_type import NodeType
from tests.daemon.scripts import ELSEWHERE, INSTANCE, SUBNET, Script

REGION = "eu-west-1"
ONE_ATTEMPT = Config(retries={"mode": "standard", "total_max_attempts": 1})


async def _no_time(_seconds: float) -> None:
    """Let no time pass: every wait of a call is the driver's."""


@dataclass
class BotoEffect:
    """Lets calls take effect through boto3, HTTP and the lab's EC2."""

    script: Script
    services: Services
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        script = self.script
        self.vpc = script.vpc()
        self._loop = asyncio.get_running_loop()
        self._lab = LabCloud(
            self.vpc,
            # The driver charges the latencies; what the metadata lags stays the lab's.
            replace(script.numbers, latencies={}, buckets={}),
            script.draws(),
            facts=LabVpc(cidrs=(IPv4Network("10.0.0.0/16"),), region=REGION),
            now=self._loop.time,
            sleep=_no_time,
        )
        shape = script.shape
        node_type = NodeType("script", shape.enis, shape.ipv4_per_eni)
        self.services.call(lambda: self._lab.launch(INSTANCE, node_type, SUBNET))
        if script.elsewhere:
            self._lab.account.tag((ELSEWHERE,), {"kubernetes.io/role/cni": "1"}, 0.0)
        self._endpoint = self._serve(self.services.call(self._lab.ec2_app))
        metadata = self._serve(self.services.call(lambda: self._lab.imds_app(INSTANCE)))
        # A machine that is busy must not look like a metadata service that is silent.
        self._imds = Imds(sleep=_no_time, endpoint=metadata, timeout_s=60.0)
        self._ec2: Ec2 | None = None

    def _serve(self, app: object) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        self.services.serve(app, listener)  # type: ignore[arg-type]
        return f"http://127.0.0.1:{port}"

    async def _connected(self) -> Ec2:
        if self._ec2 is None:
            endpoint = self._endpoint

            def make_client() -> object:
                return boto3.session.Session(INSTANCE, "lab", region_name=REGION).client(
                    "ec2", endpoint_url=endpoint, config=ONE_ATTEMPT
                )

            now = self._loop.time
            self._ec2 = Ec2(
                make_client,
                Asker(await self._imds.identity(), ec2_options({})),
                Timing(now, _no_time, now, lambda: 0.0),
                pace=Pace({}),
            )
        return self._ec2

    async def __call__(self, call: Call, fault: CallFault | None) -> Reply:
        """Make one real call, with its fault injected at the endpoint."""
        async with self._turn:
            if isinstance(call, ReadMetadata):
                return await self._imds.reply(call)
            ec2 = await self._connected()
            injected = None
            if fault is not None:
                injected = LabFault(fault.code, fault.message, fault.takes_effect)
            self._lab.faults = lambda _request: injected
            try:
                return await ec2.answer(call)
            finally:
                self._lab.faults = None

    def close(self) -> None:
        """Close the client."""
        if self._ec2 is not None:
            self._ec2.close()
