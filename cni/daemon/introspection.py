"""What the daemon knows, over HTTP: introspection on loopback, metrics and health for the node.

Paths and fields are upstream's (`pkg/ipamd/introspect.go`, `datastore/data_store.go`) where it has
them; `/v1/pods`, `/v1/actions` and `/v1/pool` are ours. Nothing here changes anything.
"""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import structlog

from cni.allocator.actions import CloudAction
from cni.allocator.model import Assignment, AttachedEni, Block
from cni.daemon.health import Health
from cni.daemon.listening import Answer, Bounds, Listening, Page, Site, listen
from cni.daemon.logs import without_secrets
from cni.daemon.looks import Looks, PodLook, PoolLook, assigned_by_block
from cni.settings import NOT_SET, Settings, effective
from cni.variables import VARIABLES, Reader

INTROSPECTION = "INTROSPECTION_BIND_ADDRESS"
METRICS = "WARMBENCH_METRICS_BIND_ADDRESS"

FRESH_S = 1.0
"""How old metrics may be: who scrapes without end must not take the loop from the ADDs."""

Json = dict[str, Any]
Exposition = Callable[[], tuple[bytes, str]]

_NEVER = "0001-01-01T00:00:00Z"
"""What upstream writes for a time that is not known: Go's zero time."""

_NETWORK_CARD = "0"
"""ENIs on further network cards are not managed."""


async def serve_introspection(
    looks: Looks, address: str, log: structlog.stdlib.BoundLogger, bounds: Bounds | None = None
) -> Listening:
    """Serve introspection until the answer's `stop`; raises ListenError.

    Pods are told of only where nobody beyond this machine can ask.
    """

    def make_site(is_local: bool) -> Site:  # noqa: FBT001 - as `listen` calls it
        if not is_local:
            log.warning("introspection is open to the network", address=address)
        pages = introspection_pages(looks, is_local=is_local)
        commands = _as_json({"AvailableCommands": list(pages)})
        # Upstream's `defaultHandler`: whoever does not know the paths is told them.
        return Site(pages, lambda: commands, log)

    return await listen(address, INTROSPECTION, make_site, bounds)


async def serve_metrics(
    looks: Looks,
    exposition: Exposition | None,
    address: str,
    log: structlog.stdlib.BoundLogger,
    bounds: Bounds | None = None,
) -> Listening:
    """Serve metrics and health until the answer's `stop`; raises ListenError.

    Without an exposition (DISABLE_METRICS) health is served all the same: the kubelet asks it.
    """
    pages: dict[str, Page] = {
        "/metrics": _Fresh(exposition).page if exposition is not None else _metrics_are_off,
        "/healthz": lambda: _probed(looks.health(), works=lambda health: health.live),
        "/readyz": lambda: _probed(looks.health(), works=lambda health: health.ready),
    }
    paths = ", ".join(pages)
    unknown = Answer(f"unknown path; there are {paths}\n".encode(), status=404)
    return await listen(address, METRICS, lambda _: Site(pages, lambda: unknown, log), bounds)


# Metrics and health.


class _Fresh:
    """Metrics, collected again when the last ones are a second old."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._answer: Answer | None = None
        self._at = 0.0

    def page(self) -> Answer:
        now = asyncio.get_running_loop().time()
        if self._answer is None or now - self._at >= FRESH_S:
            self._answer = Answer(*self._exposition())
            self._at = now
        return self._answer


def _metrics_are_off() -> Answer:
    return Answer(b"metrics are off: DISABLE_METRICS is true\n", status=404)


def _probed(health: Health, works: Callable[[Health], bool]) -> Answer:
    lines = "".join(f"{reason}\n" for reason in health.reasons)
    if works(health):
        return Answer(f"ok\n{lines}".encode())
    return Answer((lines or "not ok\n").encode(), status=503)


# Introspection.


def introspection_pages(looks: Looks, *, is_local: bool) -> Mapping[str, Page]:
    """Return the pages of introspection by path, upstream's first."""
    return {
        "/v1/enis": lambda: _as_json(_enis(looks.pool(), looks.pods())),
        "/v1/networkutils-env-settings": lambda: _as_json(_network_settings(looks.settings())),
        "/v1/ipamd-env-settings": lambda: _as_json(_daemon_settings(looks.settings())),
        "/v1/pods": (lambda: _as_json(_pods(looks.pods()))) if is_local else _not_from_here,
        "/v1/actions": lambda: _as_json(_actions(looks)),
        "/v1/pool": lambda: _as_json(_pool(looks.pool(), looks.settings())),
    }


def _as_json(value: Json) -> Answer:
    return Answer(json.dumps(value).encode(), "application/json")


def _not_from_here() -> Answer:
    allowed = f"only where {INTROSPECTION} is a loopback address or unix:PATH"
    return Answer(f"pods are told of {allowed}\n".encode(), status=403)


def _enis(pool: PoolLook, pods: tuple[PodLook, ...]) -> Json:
    """Tell the ENIs as upstream does, by network card."""
    held = assigned_by_block(pool)
    holders = {pod.address: pod for pod in pods}
    return {
        _NETWORK_CARD: {
            "TotalIPs": pool.counts.addresses_total,
            "AssignedIPs": pool.counts.assigned,
            "ENIs": {
                eni.eni_id: _eni(
                    eni,
                    {
                        block: {
                            str(one.address): _address(one, holders.get(one.address))
                            for one in held[block]
                        }
                        for block in eni.blocks
                    },
                )
                for eni in pool.enis
            },
        }
    }


def _eni(eni: AttachedEni, held: Mapping[Block, Json]) -> Json:
    return {
        "ID": eni.eni_id,
        "IsPrimary": eni.device_index == 0,
        "IsTrunk": False,
        "IsEFA": False,
        "DeviceNumber": eni.device_index,
        "AvailableIPv4Cidrs": {
            str(block): {
                # Go's net.IPNet: the mask is four bytes, which its JSON has in base64.
                "Cidr": {
                    "IP": str(block.network_address),
                    "Mask": base64.b64encode(block.netmask.packed).decode(),
                },
                "IPAddresses": addresses,
                "IsPrefix": block.prefixlen < block.max_prefixlen,
                "AddressFamily": "4",
            }
            for block, addresses in held.items()
        },
        "IPv6Cidrs": {},
    }


def _address(assignment: Assignment, pod: PodLook | None) -> Json:
    """Tell who holds an address; upstream v1.23 blanks the container and its interface."""
    metadata = {}
    if pod is not None:
        names = {"k8sPodNamespace": pod.namespace, "k8sPodName": pod.name}
        metadata = {key: name for key, name in names.items() if name}
    return {
        "Address": str(assignment.address),
        "IPAMKey": {
            "networkName": assignment.sandbox.network,
            "containerID": "",
            "ifName": "",
        },
        "IPAMMetadata": metadata,
        "AssignedTime": _NEVER if pod is None else _time(pod.since_unix),
        "UnassignedTime": _NEVER,
    }


def _pods(pods: tuple[PodLook, ...]) -> Json:
    return {
        "pods": [
            {
                "namespace": pod.namespace,
                "name": pod.name,
                "address": str(pod.address),
                "eni": pod.eni_id,
                "device_index": pod.device_index,
                "network": pod.network,
                "ifname": pod.ifname,
                "host_link": pod.host_link,
                "since": _time(pod.since_unix),
            }
            for pod in pods
        ]
    }


def _actions(looks: Looks) -> Json:
    actions = looks.actions()
    return {
        "in_flight": [_action(action) for action in actions.in_flight],
        "last_outcomes": list(actions.last),
    }


def _action(action: CloudAction) -> Json:
    told = {field.name: getattr(action, field.name) for field in fields(action)}
    told.pop("cut", None)
    blocks = told.get("blocks")
    if isinstance(blocks, tuple):
        told["blocks"] = [str(block) for block in blocks]
    return {"action": type(action).__name__, **told}


def _pool(pool: PoolLook, settings: Settings) -> Json:
    counts = pool.counts
    return {
        "target": str(settings.target),
        "addresses": {
            "total": counts.addresses_total,
            "free": pool.free,
            "assigned": counts.assigned,
            "cooling": counts.cooling,
            "leaving": pool.leaving,
            "available": counts.available,
            "most": pool.addresses_max,
        },
        "blocks": {
            "kind": pool.kind.name.lower(),
            "total": counts.blocks_total,
            "free": counts.blocks_free,
        },
        "enis": {"attached": len(pool.enis), "not_ours": pool.taken, "most": pool.enis_max},
        "max_pods": pool.limits.pods,
        "adds_waiting": pool.waiting,
        "in_doubt": pool.in_doubt,
        "free_in_subnets": dict(sorted(pool.free_in_subnets.items())),
    }


# Settings.


def _network_settings(settings: Settings) -> Json:
    other = settings.other
    return {
        name: _typed(name, other.get(name))
        for name, variable in VARIABLES.items()
        if variable.reader is Reader.NETWORK
    }


def _daemon_settings(settings: Settings) -> Json:
    """Tell what shapes the pool, then what the daemon reads besides."""
    pool = {name: None if text == NOT_SET else text for name, text in effective(settings).items()}
    other = {
        name: settings.other.get(name)
        for name, variable in VARIABLES.items()
        if variable.reader is Reader.DAEMON
    }
    return {name: _typed(name, text) for name, text in (pool | other).items()}


def _typed(name: str, text: str | None) -> object:
    """Give a value the type that upstream's answer has; null where it is not set."""
    if text is None:
        return None
    match VARIABLES[name].type:
        case "whole number":
            return int(text)
        case "boolean":
            return text == "true"
        case "mark":
            return int(text, 0)
        case "CIDR list":
            return [cidr for cidr in text.split(",") if cidr]
        case _:
            return without_secrets(text)


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat().replace("+00:00", "Z")
