"""What many settings cost, side by side: tables over node types, settings and pod counts."""

from collections.abc import Iterable, Mapping

import pandas as pd

from cni.allocator.behaviour import NATIVE, Behaviour
from cni.allocator.model import BlockKind
from cni.settings import Settings
from sim.ec2_error import Ec2Error
from sim.node_type import NodeType
from sim.one_node import Holding, hold
from sim.streams import stream
from sim.subnet import Subnet

COLUMNS = ("pods", "enis", "addresses", "idle", "taken", "idle_share")


def holdings(  # noqa: PLR0913 - all but three have defaults
    node_types: Iterable[NodeType],
    settings: Mapping[str, Settings],
    pods: Iterable[int],
    *,
    behaviour: Behaviour = NATIVE,
    subnet: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what a node of each type holds at each pod count under each setting, at rest.

    One row each, in the order given; every type and setting starts with a fresh node whose pods
    come one by one, as in `sim.one_node.hold`.

    instance    name of the type (categorical, in the order given)
    setting     the label in `settings` (categorical, in the order given)
    pods        how many have an address
    enis        ENIs on the node
    addresses   on these ENIs for pods to have, without the ENIs' primary ones
    idle        of these, held by no pod
    taken       addresses the subnet lacks: `addresses` and one primary for each ENI
    idle_share  idle / addresses; nan where there are none
    nodes       only with `subnet`, a CIDR: how many such nodes fit into it, from `nodes_in`

    No row is made for more pods than the type has addresses for, nor for a type without
    prefixes under a setting that wants them. Raises ValueError for a negative count or a bad
    CIDR.

    >>> holdings([NodeType("m5.large", 3, 10)], {"default": Settings()}, [0, 20])[
    ...     ["pods", "enis", "addresses", "idle", "taken"]
    ... ].values.tolist()
    [[0, 1, 9, 9, 10], [20, 3, 27, 7, 30]]
    """
    types, counts = tuple(node_types), tuple(pods)
    rows = []
    for node_type in types:
        for label, chosen in settings.items():
            if chosen.kind is BlockKind.PREFIX and not node_type.prefixes_allowed:
                continue
            room = node_type.addresses(chosen.kind)
            within = [count for count in counts if count <= room]
            if not within:
                continue
            for held in hold(node_type, chosen, within, behaviour=behaviour, seed=seed):
                row = {"instance": node_type.name, "setting": label, **_figures(held)}
                if subnet is not None:
                    row["nodes"] = nodes_in(subnet, held, seed=seed)
                rows.append(row)
    names = list(dict.fromkeys(node_type.name for node_type in types))
    columns = ["instance", "setting", *COLUMNS, *([] if subnet is None else ["nodes"])]
    frame = pd.DataFrame(rows, columns=columns)
    # So that pivots and plots keep the order in which the caller thinks of them.
    frame["instance"] = pd.Categorical(frame["instance"], names)
    frame["setting"] = pd.Categorical(frame["setting"], list(settings))
    return frame


def nodes_in(cidr: str, held: Holding, *, seed: int = 0) -> int:
    """Return how many nodes that hold as much fit into an empty subnet, one after another.

    Primary addresses and secondary IPs are placed at random, as EC2 places them: in prefix mode
    they break up the /28 blocks that later nodes need, so that a subnet can be full long before
    its addresses are used up. Raises ValueError for a bad CIDR.

    >>> from sim.one_node import hold
    >>> (held,) = hold(NodeType("m5.large", 3, 10), Settings(), [20])
    >>> nodes_in("10.0.0.0/24", held)
    8
    """
    vacant = Subnet("subnet-0", cidr, stream(seed, "placement"))
    take = vacant.take_prefixes if held.prefixes else vacant.take_singles
    nodes = 0
    while True:
        try:
            for blocks in held.per_eni:
                vacant.take_singles(1)
                take(blocks)
        except Ec2Error:
            return nodes
        nodes += 1


def _figures(held: Holding) -> dict[str, object]:
    return {
        "pods": held.pods,
        "enis": held.enis,
        "addresses": held.addresses,
        "idle": held.available,
        "taken": held.addresses + held.enis,
        "idle_share": held.available / held.addresses if held.addresses else float("nan"),
    }
