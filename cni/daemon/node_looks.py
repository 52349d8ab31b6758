"""What the daemon shows of itself, taken from its parts when somebody asks."""

from dataclasses import dataclass, field

from cni.allocator.allocator import Allocator
from cni.allocator.model import NodeLimits
from cni.daemon.clock import Clock
from cni.daemon.health import Health, HealthBook
from cni.daemon.looks import ActionsLook, PodLook, PoolLook
from cni.daemon.maintainer import Maintainer
from cni.daemon.node_cloud import NodeCloud
from cni.daemon.sandboxes import Sandboxes
from cni.settings import Settings


@dataclass(frozen=True, slots=True)
class Node:
    """The parts that know something once the daemon is built."""

    allocator: Allocator
    sandboxes: Sandboxes
    maintainer: Maintainer
    cloud: NodeCloud
    limits: NodeLimits
    taken: int


@dataclass(slots=True)
class NodeLooks:
    """Answers metrics and introspection; before the node is built health alone."""

    clock: Clock
    book: HealthBook
    given: Settings
    node: Node | None = field(default=None)

    def _built(self) -> Node:
        assert self.node is not None, "introspection is served once the node is built"
        return self.node

    def pool(self) -> PoolLook:
        """Return the pool with its ENIs."""
        node = self._built()
        return PoolLook(
            counts=node.allocator.counts(self.clock.now()),
            limits=node.limits,
            kind=self.given.kind,
            enis=node.allocator.enis(),
            assignments=node.allocator.assignments(),
            taken=node.taken,
            waiting=node.allocator.waiting,
            holdings=len(node.sandboxes.holdings),
            in_doubt=node.allocator.in_doubt,
            subnets=node.cloud.subnets,
            free_in_subnets=node.cloud.free_in_subnets,
        )

    def pods(self) -> tuple[PodLook, ...]:
        """Return who holds an address, oldest first."""
        return tuple(
            PodLook(
                namespace=one.pod_namespace,
                name=one.pod_name,
                address=one.address,
                eni_id=one.eni_id,
                device_index=one.device_index,
                network=one.sandbox.network,
                ifname=one.sandbox.ifname,
                host_link=one.host_link,
                since_unix=one.since_unix,
            )
            for one in self._built().sandboxes.holdings.values()
        )

    def settings(self) -> Settings:
        """Return the settings in effect."""
        return self.given

    def actions(self) -> ActionsLook:
        """Return what is asked of EC2 and what became of it."""
        node = self._built()
        return ActionsLook(node.allocator.in_flight, tuple(node.maintainer.last_outcomes))

    def health(self) -> Health:
        """Return what a probe is to be told."""
        return self.book.health(self.clock.now())
