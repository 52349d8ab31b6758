"""Introspection, metrics and health over HTTP, on loopback and on a Unix socket."""

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from cni.allocator.actions import AddBlocks, AttachEni, RemoveBlocks
from cni.allocator.model import BlockKind
from cni.daemon import introspection as introspection_module
from cni.daemon.health import Health
from cni.daemon.introspection import serve_introspection, serve_metrics
from cni.daemon.listening import Bounds, ListenError, Listening
from cni.daemon.looks import Looks
from cni.daemon.metrics import Metrics
from cni.settings import parse
from tests.daemon.looked_at import (
    FIRST,
    SECOND,
    LookedAt,
    a_pod,
    a_pool,
    an_assignment,
    an_eni,
)

LOOPBACK = "127.0.0.1:0"
PATIENCE_S = 10.0
COMMANDS = [
    "/v1/enis",
    "/v1/networkutils-env-settings",
    "/v1/ipamd-env-settings",
    "/v1/pods",
    "/v1/actions",
    "/v1/pool",
]


@dataclass
class Heard:
    """A log that keeps what it is told."""

    lines: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, level: str) -> Callable[..., None]:
        def write(event: str, **told: Any) -> None:
            self.lines.append((level, event, told))

        return write


def a_log(heard: Heard | None = None) -> structlog.stdlib.BoundLogger:
    """Return a log for parts that want one."""
    return heard or Heard()  # type: ignore[return-value]


@dataclass
class Asked:
    """What came back."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


Ask = Callable[..., Awaitable[Asked]]


@asynccontextmanager
async def asking(listening: Listening) -> AsyncIterator[Ask]:
    """Yield what asks a server for a path, and stop the server afterwards."""
    unix = listening.address.startswith("unix:")
    path = listening.address.removeprefix("unix:")
    connector = aiohttp.UnixConnector(path) if unix else aiohttp.TCPConnector()
    base = "http://here" if unix else f"http://{listening.address}"
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def ask(path: str, method: str = "GET", **more: Any) -> Asked:
                async with session.request(method, base + path, **more) as reply:
                    return Asked(reply.status, await reply.text(), dict(reply.headers))

            yield ask
    finally:
        await listening.stop()


@asynccontextmanager
async def introspection(
    looks: Looks | None = None, address: str = LOOPBACK, heard: Heard | None = None
) -> AsyncIterator[Ask]:
    """Yield what asks an introspection server."""
    served = await serve_introspection(looks or LookedAt(), address, a_log(heard))
    async with asking(served) as ask:
        yield ask


@asynccontextmanager
async def metrics_server(
    looks: LookedAt, exposition: Callable[[], tuple[bytes, str]] | None = None
) -> AsyncIterator[Ask]:
    """Yield what asks the server of metrics and health."""
    async with asking(await serve_metrics(looks, exposition, LOOPBACK, a_log())) as ask:
        yield ask


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine on a loop of its own, which ends with nothing left open."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await work()

    asyncio.run(bounded())


# Introspection.


@pytest.mark.parametrize("path", ["/", "/v1/enis/", "/v2/enis", "/metrics", "/v1/eni-configs"])
def test_whoever_does_not_know_the_paths_is_told_them(path: str) -> None:
    """The root and any unknown path list the commands, as upstream's default handler."""

    async def work() -> None:
        async with introspection() as ask:
            told = await ask(path)

        assert (told.status, told.json) == (200, {"AvailableCommands": COMMANDS})
        assert told.headers["Content-Type"] == "application/json"

    run(work)


def test_enis_are_told_with_upstreams_fields() -> None:
    """Blocks, addresses and pods of each ENI; container and interface stay blank as in v1.23."""
    looks = LookedAt(
        a_pool(
            (an_eni(FIRST, 0, "10.0.0.16/28"), an_eni(SECOND, 1, "10.0.1.7/32")),
            (
                an_assignment("c1", "10.0.0.18", FIRST, 0),
                an_assignment("c2", "10.0.1.7", SECOND, 1),
            ),
            kind=BlockKind.PREFIX,
        ),
        (a_pod("web-1", "10.0.0.18", FIRST, 0),),
    )

    async def work() -> None:
        async with introspection(looks) as ask:
            told = await ask("/v1/enis")

        card = told.json["0"]
        assert (card["TotalIPs"], card["AssignedIPs"]) == (17, 2)
        assert card["ENIs"][FIRST] == {
            "ID": FIRST,
            "IsPrimary": True,
            "IsTrunk": False,
            "IsEFA": False,
            "DeviceNumber": 0,
            "AvailableIPv4Cidrs": {
                "10.0.0.16/28": {
                    "Cidr": {"IP": "10.0.0.16", "Mask": "////8A=="},
                    "IPAddresses": {
                        "10.0.0.18": {
                            "Address": "10.0.0.18",
                            "IPAMKey": {"networkName": "aws-cni", "containerID": "", "ifName": ""},
                            "IPAMMetadata": {
                                "k8sPodNamespace": "default",
                                "k8sPodName": "web-1",
                            },
                            "AssignedTime": "2023-11-14T22:13:20.500000Z",
                            "UnassignedTime": "0001-01-01T00:00:00Z",
                        }
                    },
                    "IsPrefix": True,
                    "AddressFamily": "4",
                }
            },
            "IPv6Cidrs": {},
        }
        second = card["ENIs"][SECOND]
        assert not second["IsPrimary"]
        block = second["AvailableIPv4Cidrs"]["10.0.1.7/32"]
        assert not block["IsPrefix"]
        assert block["Cidr"]["Mask"] == "/////w=="
        # Assigned a moment ago, and not in the ledger yet.
        assert block["IPAddresses"]["10.0.1.7"]["IPAMMetadata"] == {}
        assert "c1" not in told.text

    run(work)


def test_settings_are_told_in_two_halves_with_their_types() -> None:
    """Numbers are numbers, switches are true or false, CIDRs are lists, and null is not set."""
    settings = parse(
        {
            "WARM_IP_TARGET": "5",
            "MINIMUM_IP_TARGET": "10",
            "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "10.0.0.0/8,172.16.0.0/12",
            "AWS_VPC_K8S_CNI_CONNMARK": "0x80",
            "CLUSTER_ENDPOINT": "https://joe:hunter2@api:6443",
        },
        lenient=False,
    )

    async def work() -> None:
        async with introspection(LookedAt(the_settings=settings)) as ask:
            network = (await ask("/v1/networkutils-env-settings")).json
            daemon = (await ask("/v1/ipamd-env-settings")).json

        assert network["AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"] == ["10.0.0.0/8", "172.16.0.0/12"]
        assert network["AWS_VPC_K8S_CNI_CONNMARK"] == 0x80
        assert network["AWS_VPC_ENI_MTU"] == 9001
        assert network["AWS_VPC_K8S_CNI_EXTERNALSNAT"] is False
        assert network["POD_MTU"] is None
        assert daemon["WARM_IP_TARGET"] == 5
        assert daemon["WARM_PREFIX_TARGET"] is None
        assert daemon["ENABLE_PREFIX_DELEGATION"] is False
        assert daemon["WARMBENCH_BEHAVIOUR"] == "native"
        assert daemon["CLUSTER_ENDPOINT"] == "https://***@api:6443"
        assert not set(network) & set(daemon)

    run(work)


def test_pods_are_told_with_address_and_eni() -> None:
    """One entry for each sandbox; its container's id is nobody's business."""
    looks = LookedAt(the_pods=(a_pod("web-1", "10.0.0.18", FIRST, 0),))

    async def work() -> None:
        async with introspection(looks) as ask:
            (pod,) = (await ask("/v1/pods")).json["pods"]

        assert pod == {
            "namespace": "default",
            "name": "web-1",
            "address": "10.0.0.18",
            "eni": FIRST,
            "device_index": 0,
            "network": "aws-cni",
            "ifname": "eth0",
            "host_link": "eni1234567890a",
            "since": "2023-11-14T22:13:20.500000Z",
        }

    run(work)


def test_pods_are_not_told_to_the_network() -> None:
    """Bound to every interface, introspection warns and keeps the pods' names to itself."""
    heard = Heard()

    async def work() -> None:
        listening = await serve_introspection(LookedAt(), "0.0.0.0:0", a_log(heard))
        listening.address = listening.address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        async with asking(listening) as ask:
            told = await ask("/v1/pods")
            pool = await ask("/v1/pool")

        assert (told.status, pool.status) == (403, 200)
        assert "INTROSPECTION_BIND_ADDRESS" in told.text
        assert [level for level, _, _ in heard.lines] == ["warning"]

    run(work)


def test_actions_are_told_with_their_reasons() -> None:
    """What is in flight, and what became of the last ones."""
    block = an_eni(FIRST, 0, "10.0.0.16/28").blocks
    looks = LookedAt(
        in_flight=(
            AttachEni(7, 1, 4, "4 addresses short"),
            AddBlocks(8, FIRST, 2, "2 short"),
            RemoveBlocks(9, FIRST, block, "1 too many", (3.5,)),
        ),
        last=("AddBlocks: throttled", "AddBlocks: done"),
    )

    async def work() -> None:
        async with introspection(looks) as ask:
            told = (await ask("/v1/actions")).json

        assert told == {
            "in_flight": [
                {
                    "action": "AttachEni",
                    "id": 7,
                    "device_index": 1,
                    "blocks": 4,
                    "why": "4 addresses short",
                    "elsewhere": False,
                },
                {"action": "AddBlocks", "id": 8, "eni_id": FIRST, "count": 2, "why": "2 short"},
                {
                    "action": "RemoveBlocks",
                    "id": 9,
                    "eni_id": FIRST,
                    "blocks": ["10.0.0.16/28"],
                    "why": "1 too many",
                },
            ],
            "last_outcomes": ["AddBlocks: throttled", "AddBlocks: done"],
        }

    run(work)


def test_the_pool_is_told_with_its_target_and_limits() -> None:
    """One answer says why an ADD would wait: what there is, what may come, who waits."""
    pool = a_pool(
        (an_eni(FIRST, 0, "10.0.0.10/32", "10.0.0.11/32"),),
        (an_assignment("a", "10.0.0.10", FIRST, 0),),
        cooling=1,
        waiting=2,
        free_in_subnets={"subnet-1": 9},
    )

    async def work() -> None:
        async with introspection(LookedAt(pool)) as ask:
            told = (await ask("/v1/pool")).json

        assert told["addresses"] == {
            "total": 2,
            "free": 0,
            "assigned": 1,
            "cooling": 1,
            "leaving": 0,
            "available": 0,
            "most": 27,
        }
        assert told["target"] == "WARM_ENI_TARGET=1"
        assert told["blocks"]["kind"] == "secondary_ip"
        assert told["enis"] == {"attached": 1, "not_ours": 0, "most": 3}
        assert (told["adds_waiting"], told["in_doubt"]) == (2, False)
        assert told["free_in_subnets"] == {"subnet-1": 9}

    run(work)


# What is asked wrongly.


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_looking_is_allowed(method: str) -> None:
    """Nothing here changes anything, so nothing but GET and HEAD has a meaning."""

    async def work() -> None:
        async with introspection() as ask:
            told = await ask("/v1/enis", method)

        assert told.status == 405
        assert told.headers["Allow"] == "GET, HEAD"
        assert told.text == "only GET and HEAD are answered here\n"

    run(work)


def test_head_is_a_get_without_its_text() -> None:
    """Length and type are those that GET would have."""

    async def work() -> None:
        async with introspection() as ask:
            told, head = await ask("/v1/pool"), await ask("/v1/pool", "HEAD")

        assert (head.status, head.text) == (200, "")
        assert head.headers["Content-Length"] == str(len(told.text))
        assert head.headers["Content-Type"] == "application/json"

    run(work)


def test_a_request_with_a_body_is_refused() -> None:
    """Whatever comes after the header is not read."""

    async def work() -> None:
        async with introspection() as ask:
            told = await ask("/v1/enis", data=b"x" * 100_000)

        assert (told.status, told.text) == (413, "a request here has no body\n")

    run(work)


def test_a_request_line_without_end_is_refused() -> None:
    """A header of more than 2 KiB a line is nobody's who looks."""

    async def work() -> None:
        async with introspection() as ask:
            told = await ask("/" + "x" * 3000)

        assert told.status == 400

    run(work)


def test_a_page_that_breaks_is_a_fault_in_one_line() -> None:
    """The log has the traceback; who asked has no use for it, and the next page works."""
    heard = Heard()

    async def work() -> None:
        async with introspection(LookedAt(breaks=True), heard=heard) as ask:
            told, next_one = await ask("/v1/enis"), await ask("/v1/actions")

        assert (told.status, told.text) == (500, "a fault of the daemon; see its log\n")
        assert next_one.status == 200
        assert heard.lines == [("exception", "page broke", {"path": "/v1/enis"})]

    run(work)


# Metrics and health.


def test_health_is_told_to_the_two_probes() -> None:
    """Live and not ready: the kubelet waits and does not kill; reasons are lines."""
    looks = LookedAt()

    async def work() -> None:
        async with metrics_server(looks) as ask:
            well = await ask("/healthz"), await ask("/readyz")
            looks.the_health = Health(
                live=True, ready=False, reasons=("ledger: no space", "first refill: not up yet")
            )
            waiting = await ask("/healthz"), await ask("/readyz")
            looks.the_health = Health(live=False, ready=False, reasons=("ledger: no space",))
            dead = await ask("/healthz"), await ask("/readyz")

        lines = "ledger: no space\nfirst refill: not up yet\n"
        assert [(one.status, one.text) for one in well] == [(200, "ok\n"), (200, "ok\n")]
        assert [(one.status, one.text) for one in waiting] == [
            (200, "ok\n" + lines),
            (503, lines),
        ]
        assert [(one.status, one.text) for one in dead] == [(503, "ledger: no space\n")] * 2

    run(work)


def test_metrics_are_collected_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever scrapes in a loop gets the same text again and costs the daemon nothing."""
    assert introspection_module.FRESH_S == 1.0
    collected = []

    def exposition() -> tuple[bytes, str]:
        collected.append(1)
        return b"awscni_eni_max %d\n" % len(collected), "text/plain; version=0.0.4; charset=utf-8"

    async def work() -> None:
        async with metrics_server(LookedAt(), exposition) as ask:
            monkeypatch.setattr(introspection_module, "FRESH_S", 3600.0)
            first, again = await ask("/metrics"), await ask("/metrics")
            monkeypatch.setattr(introspection_module, "FRESH_S", 0.0)
            later = await ask("/metrics")

        assert first.text == again.text == "awscni_eni_max 1\n"
        assert first.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert later.text == "awscni_eni_max 2\n"

    run(work)


def test_a_scrape_over_http_is_the_daemons_metrics() -> None:
    """What Prometheus gets parses, and has the pool as it is now."""
    counted = Metrics(lambda: 0.0, version="0.1.0")
    counted.watch_pool(lambda: a_pool((an_eni(FIRST, 0, "10.0.0.16/28"),)))

    async def work() -> None:
        async with metrics_server(LookedAt(), counted.exposition) as ask:
            told = await ask("/metrics")

        families = {family.name: family for family in text_string_to_metric_families(told.text)}
        assert families["awscni_total_ip_addresses"].samples[0].value == 16

    run(work)


def test_metrics_that_cannot_be_collected_are_a_fault_in_one_line() -> None:
    """Health is told all the same."""

    async def work() -> None:
        counted = Metrics(lambda: 0.0, version="0.1.0")
        looks = LookedAt(breaks=True)
        counted.watch_pool(looks.pool)
        async with metrics_server(looks, counted.exposition) as ask:
            told, health = await ask("/metrics"), await ask("/healthz")

        assert (told.status, told.text) == (500, "a fault of the daemon; see its log\n")
        assert health.status == 200

    run(work)


def test_health_is_served_where_metrics_are_off() -> None:
    """DISABLE_METRICS must not make the kubelet kill the daemon."""

    async def work() -> None:
        async with metrics_server(LookedAt(), None) as ask:
            off, health, unknown = await ask("/metrics"), await ask("/healthz"), await ask("/")

        assert (off.status, health.status, unknown.status) == (404, 200, 404)
        assert "DISABLE_METRICS" in off.text
        assert unknown.text == "unknown path; there are /metrics, /healthz, /readyz\n"

    run(work)


# Addresses.


def test_a_port_in_use_is_one_clear_line() -> None:
    """It names the variable, the address, what is wrong and what to do."""

    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ListenError) as refused:
                await serve_metrics(LookedAt(), None, address, a_log())

        assert str(refused.value) == (
            f"WARMBENCH_METRICS_BIND_ADDRESS={address}: another process listens there, maybe"
            " another CNI daemon; stop it, or choose another address"
        )

    run(work)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "write HOST:PORT or unix:PATH"),
        ("61679", "write HOST:PORT or unix:PATH"),
        ("127.0.0.1:http", "write HOST:PORT or unix:PATH"),
        ("127.0.0.1:65536", "write HOST:PORT or unix:PATH"),
        ("192.0.2.1:0", "Cannot assign requested address"),
        ("unix:/nowhere/at/all", "No such file or directory"),
        ("unix:" + "x" * 200, "AF_UNIX path too long"),
    ],
)
def test_an_address_that_makes_no_sense_is_one_clear_line(address: str, why: str) -> None:
    """The error has the variable and the value before the reason."""

    async def work() -> None:
        with pytest.raises(ListenError) as refused:
            await serve_introspection(LookedAt(), address, a_log())

        assert str(refused.value) == f"INTROSPECTION_BIND_ADDRESS={address}: {why}"

    run(work)


def test_a_unix_socket_is_roots_alone_and_goes_with_its_server(tmp_path: Path) -> None:
    """Mode 0600 from the first instant; pods are told there, and nothing is left behind."""
    path = tmp_path / "introspection.sock"
    looks = LookedAt(the_pods=(a_pod("web-1", "10.0.0.18", FIRST, 0),))

    async def work() -> None:
        async with introspection(looks, f"unix:{path}") as ask:
            mode = path.stat().st_mode
            told = await ask("/v1/pods")

        assert stat.S_IMODE(mode) == 0o600
        assert told.json["pods"][0]["name"] == "web-1"
        assert not path.exists()

    run(work)


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    """Nobody listens on it: a crash left it, and the next start must not stumble over it."""
    path = tmp_path / "introspection.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def work() -> None:
        async with introspection(address=f"unix:{path}") as ask:
            told = await ask("/v1/pool")

        assert told.status == 200

    run(work)


def test_a_living_daemons_socket_is_left_alone(tmp_path: Path) -> None:
    """Somebody listens on it, so the second daemon gives way."""
    path = tmp_path / "introspection.sock"

    async def work() -> None:
        async with introspection(address=f"unix:{path}") as ask:
            with pytest.raises(ListenError, match="another process listens on this socket"):
                await serve_introspection(LookedAt(), f"unix:{path}", a_log())
            told = await ask("/v1/pool")

        assert told.status == 200

    run(work)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """A mistyped path must not cost anybody a file."""
    path = tmp_path / "precious"
    path.write_text("content")

    async def work() -> None:
        with pytest.raises(ListenError, match="this file is no socket"):
            await serve_introspection(LookedAt(), f"unix:{path}", a_log())

    run(work)
    assert path.read_text() == "content"


def test_another_daemons_socket_survives_our_stop(tmp_path: Path) -> None:
    """The path may be somebody else's by the time we go."""
    path = tmp_path / "introspection.sock"

    async def work() -> None:
        listening = await serve_introspection(LookedAt(), f"unix:{path}", a_log())
        path.rename(tmp_path / "ours")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            await listening.stop()

        assert path.exists()

    run(work)


# Callers who mean no good.


async def until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds; the test's own time limit ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0.005)


async def hung_up(reader: asyncio.StreamReader) -> None:
    """Return when the connection has ended without a byte."""
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)


def test_a_silent_caller_is_hung_up_on() -> None:
    """A connection ends when its time is up, whether it sent nothing or half a request."""

    async def work() -> None:
        bounds = Bounds(connection_s=0.2)
        listening = await serve_introspection(LookedAt(), LOOPBACK, a_log(), bounds)
        host, port = listening.address.split(":")
        silent = await asyncio.open_connection(host, int(port))
        slow = await asyncio.open_connection(host, int(port))
        slow[1].write(b"GET /v1/pool HTTP/1.1\r\nHo")
        for reader, writer in (silent, slow):
            await hung_up(reader)
            writer.close()
        await until(lambda: listening.connections == 0)
        await listening.stop()

    run(work)


def test_one_peer_cannot_keep_others_out() -> None:
    """Beyond its share a peer is hung up on; when it lets go, it is served again."""

    async def work() -> None:
        bounds = Bounds(of_one_peer=2, connection_s=3600.0)
        listening = await serve_introspection(LookedAt(), LOOPBACK, a_log(), bounds)
        host, port = listening.address.split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        await until(lambda: listening.connections == 2)

        third, closing = await asyncio.open_connection(host, int(port))
        await hung_up(third)
        closing.close()
        other = await asyncio.open_connection(host, int(port), local_addr=("127.0.0.2", 0))
        other[1].write(b"GET /v1/pool HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await other[0].readline() == b"HTTP/1.1 200 OK\r\n"
        for _, writer in (*held, other):
            writer.close()
        await until(lambda: listening.connections == 0)

        async with asking(listening) as ask:
            assert (await ask("/v1/pool")).status == 200

    run(work)


def test_all_peers_together_have_a_bound() -> None:
    """However many callers there are, descriptors are left for plug-ins."""

    async def work() -> None:
        bounds = Bounds(connections=1, connection_s=3600.0)
        listening = await serve_introspection(LookedAt(), LOOPBACK, a_log(), bounds)
        host, port = listening.address.split(":")
        _, held = await asyncio.open_connection(host, int(port))
        await until(lambda: listening.connections == 1)

        other, writer = await asyncio.open_connection(host, int(port), local_addr=("127.0.0.2", 0))
        await hung_up(other)
        for one in (held, writer):
            one.close()
        await listening.stop()

    run(work)


def test_a_connection_carries_one_request() -> None:
    """Who keeps a connection open gets its answer, and then the end."""

    async def work() -> None:
        listening = await serve_introspection(LookedAt(), LOOPBACK, a_log())
        host, port = listening.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/pool HTTP/1.1\r\nHost: x\r\n\r\n")
        text = await reader.read()
        writer.close()
        await listening.stop()

        assert text.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close" in text

    run(work)


def test_a_server_stops_while_somebody_holds_on() -> None:
    """SIGTERM must not wait for a caller that says nothing."""

    async def work() -> None:
        listening = await serve_introspection(LookedAt(), LOOPBACK, a_log())
        host, port = listening.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await until(lambda: listening.connections == 1)

        await listening.stop()

        assert listening.connections == 0
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))

    run(work)


def test_a_server_stops_while_somebody_does_not_read() -> None:
    """What a caller leaves unread goes with its connection."""
    much = b"x" * 50_000_000

    async def work() -> None:
        listening = await serve_metrics(
            LookedAt(), lambda: (much, "text/plain"), LOOPBACK, a_log(), Bounds(connection_s=3600.0)
        )
        host, port = listening.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"

        await listening.stop()

        assert listening.connections == 0
        writer.close()

    run(work)


def test_no_http_at_all_is_answered_and_forgotten(capfd: pytest.CaptureFixture[str]) -> None:
    """A port scan writes nothing to the log and nothing to standard error."""
    heard = Heard()

    async def work() -> None:
        listening = await serve_introspection(LookedAt(), LOOPBACK, a_log(heard))
        host, port = listening.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01\x00\xa5\x01 no TLS here\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await listening.stop()

        assert b" 400 " in answer.splitlines()[0]

    run(work)
    assert heard.lines == []
    assert capfd.readouterr().err == ""
