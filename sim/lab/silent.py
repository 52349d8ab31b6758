"""An EC2 that launches instances and answers nothing else: for the fabric alone."""

import time
from collections.abc import Callable

from aiohttp import web

from sim.cloud_numbers import CloudNumbers
from sim.lab.plan import LabPlan
from sim.lab.routed_vpc import RoutedVpc
from sim.node_type import NodeType
from sim.vpc import EniDescription


class SilentCloud:
    """See `sim.lab.lab.LabCloud`."""

    on_attached: Callable[[str, EniDescription, str], None]
    on_detached: Callable[[str, EniDescription, str], None]

    def __init__(self, _plan: LabPlan, vpc: RoutedVpc, _numbers: CloudNumbers) -> None:
        self._vpc = vpc

    def launch(self, instance_id: str, node_type: NodeType, subnet_id: str) -> EniDescription:
        """Start an instance."""
        return self._vpc.launch_instance(instance_id, node_type.shape, subnet_id, time.monotonic())

    def mac_of(self, interface: EniDescription) -> str:
        """Return the MAC of an ENI."""
        digits = f"{int(interface.eni_id.removeprefix('eni-'), 16):010x}"
        return ":".join(["02", *(digits[at : at + 2] for at in range(0, 10, 2))])

    def ec2_app(self) -> web.Application:
        """Answer 404 to everything."""
        return web.Application()

    def imds_app(self, instance_id: str) -> web.Application:
        """Tell the instance's id and nothing else."""

        async def tell(_: web.Request) -> web.Response:
            return web.Response(text=instance_id)

        app = web.Application()
        app.router.add_get("/latest/meta-data/instance-id", tell)
        return app
