"""Refusals of the allocator, as exceptions.

Every refused ADD carries one cause code, the same in the CNI error, the log, the metric and
the simulator's report.
"""

from enum import Enum

from cni.allocator.model import SandboxKey


class Cause(Enum):
    """Why an ADD found no address; the value is the code people and dashboards see."""

    POOL_EMPTY = "pool_empty"
    ALL_COOLING = "all_cooling"
    ENI_LIMIT = "eni_limit"
    MAX_PODS = "max_pods"
    SUBNET_FULL = "subnet_full"
    SUBNET_FRAGMENTED = "subnet_fragmented"
    THROTTLED = "throttled"
    DENIED = "denied"
    METADATA_LAG = "metadata_lag"
    STARTING = "starting"


class NoFreeAddress(Exception):  # noqa: N818 - a refusal, not an error; the field's own name
    """No address is free for this sandbox now.

    `may_come` tells whether waiting makes sense: an address is on its way, cools down, or can
    still be asked for.
    """

    def __init__(self, cause: Cause, *, may_come: bool) -> None:
        """Refuse with `cause`."""
        super().__init__(cause.value)
        self.cause = cause
        self.may_come = may_come


class UnknownSandbox(Exception):  # noqa: N818 - as above
    """The sandbox holds no address: nothing was released."""

    def __init__(self, sandbox: SandboxKey) -> None:
        """Name the sandbox that is not known."""
        super().__init__(f"{sandbox.network}/{sandbox.container_id}/{sandbox.ifname}")
        self.sandbox = sandbox
