"""A VPC whose router hears of every block that comes or goes."""

from collections.abc import Callable, Iterable

from cni.allocator.model import Block, BlockKind, EniId
from sim.subnet import Subnet
from sim.vpc import ENIS_PER_REGION, EniDescription, Vpc


class RoutedVpc(Vpc):
    """Tells `on_blocks` the new description of an ENI whose blocks have changed, at once.

    So a pod's packets find their way as soon as EC2 has answered, whoever made the call.
    """

    def __init__(
        self,
        subnets: Iterable[Subnet],
        on_blocks: Callable[[EniDescription], None],
        *,
        enis_max: int = ENIS_PER_REGION,
    ) -> None:
        super().__init__(subnets, enis_max=enis_max)
        self._on_blocks = on_blocks

    def assign_private_ip_addresses(
        self, eni_id: EniId, kind: BlockKind, count: int, now: float
    ) -> tuple[Block, ...]:
        """Add blocks as EC2 does, and route them."""
        added = super().assign_private_ip_addresses(eni_id, kind, count, now)
        self._tell(eni_id, now)
        return added

    def unassign_private_ip_addresses(
        self, eni_id: EniId, blocks: Iterable[Block], now: float
    ) -> None:
        """Take blocks away as EC2 does, and the routes to them."""
        super().unassign_private_ip_addresses(eni_id, blocks, now)
        self._tell(eni_id, now)

    def _tell(self, eni_id: EniId, now: float) -> None:
        (eni,) = self.describe_network_interfaces((eni_id,), now)
        self._on_blocks(eni)
