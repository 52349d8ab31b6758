"""The instance metadata (IMDSv2): the node's identity and the ENIs it shows.

A copy of EC2 that lags behind and comes together piece by piece: an ENI of which one piece is
missing is not shown at all, since half of its addresses would look like a change. Reading
happens in worker threads with `http.client`, which asks no proxy: the service is link-local.
Source: EC2 user guide, "Use the Instance Metadata Service to access instance metadata".
"""

import asyncio
import http.client
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar
from urllib.parse import urlsplit

from cni.allocator.actions import FailureReason
from cni.allocator.model import AttachedEni, EniId
from cni.cloud.calls import CallError, Interface, InterfacesDescribed, ReadMetadata
from cni.cloud.identity import Identity, MetadataEni

__all__ = ["ENDPOINT", "Identity", "Imds", "MetadataEni", "MetadataError"]

ENDPOINT = "http://169.254.169.254"

ATTEMPTS = 3
"""Reads of the whole in all, before a failure is told."""

FIRST_PAUSE_S = 0.1
"""Before the second read; then twice as long each time."""

TIMEOUT_S = 2.0
"""For one request: the service is on the host and answers in less than a millisecond."""

TOKEN_TTL_S = 21600
"""Six hours, the longest that the service grants."""

METADATA_UNAVAILABLE = "MetadataUnavailable"

_ANSWER_BYTES_MAX = 1 << 20
_MACS = "meta-data/network/interfaces/macs/"
_OK, _NOT_FOUND, _UNAUTHORIZED, _FORBIDDEN = 200, 404, 401, 403

Value = TypeVar("Value")


class MetadataError(CallError):
    """The metadata could not be read; the message is one line and says what to look at."""

    def __init__(self, message: str) -> None:
        """Carry what failed."""
        super().__init__(FailureReason.OTHER, METADATA_UNAVAILABLE, message)


class Imds:
    """Reads the metadata of this instance; safe to be asked several things at once."""

    def __init__(
        self,
        *,
        sleep: Callable[[float], Awaitable[None]],
        endpoint: str = ENDPOINT,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        on_failure: Callable[[str, str], None] | None = None,
    ) -> None:
        """Take where the service is; `sleep` waits in the caller's time between attempts.

        `on_failure` hears of every attempt that failed: what was read, and a code for why.
        Raises ValueError for an endpoint that is no http URL.
        """
        parts = urlsplit(endpoint)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"metadata endpoint {endpoint!r}: must be http://HOST or with :PORT")
        self._endpoint = endpoint
        self._host = parts.hostname
        self._port = parts.port or http.client.HTTP_PORT
        self._sleep = sleep
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._on_failure = on_failure
        # Threads may both renew it, which costs a request and nothing else.
        self._token = ""

    async def identity(self) -> Identity:
        """Return who the node is; MetadataError where a piece of it cannot be read."""
        return await self._read(_identity)

    async def enis(self) -> tuple[MetadataEni, ...]:
        """Return the ENIs that are shown whole, by device index; those of the first card only."""
        return await self._read(_enis)

    async def reply(self, call: ReadMetadata) -> InterfacesDescribed:
        """Answer a recipe's call; MetadataError, a CallError, where it cannot be read."""
        del call  # It has nothing to say.
        shown = await self.enis()
        return InterfacesDescribed(tuple(Interface(each.eni, "") for each in shown))

    async def _read(self, read: Callable[["_Session"], Value]) -> Value:
        """Read all of something, and again from the beginning where that fails."""
        pause = FIRST_PAUSE_S
        for left in reversed(range(self._attempts)):
            try:
                return await asyncio.to_thread(self._in_thread, read)
            except _Unreadable as error:
                if self._on_failure is not None:
                    self._on_failure(read.__name__.strip("_"), METADATA_UNAVAILABLE)
                if not left:
                    raise MetadataError(f"{self._endpoint}: {error}") from error
            await self._sleep(pause)
            pause *= 2
        raise AssertionError(self._attempts)

    def _in_thread(self, read: Callable[["_Session"], Value]) -> Value:
        """Read on one connection, with the token known so far, and keep the last one."""
        session = _Session(self._host, self._port, self._timeout_s, self._token)
        try:
            return read(session)
        finally:
            self._token = session.token
            session.close()


class _Unreadable(Exception):  # noqa: N818 - becomes a MetadataError when attempts are used up
    """A request failed, or its answer makes no sense."""


class _Session:
    """One connection to the service, for one thread and one read."""

    def __init__(self, host: str, port: int, timeout_s: float, token: str) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        self.token = token

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str) -> str | None:
        """Return what the service has at a path below `/latest/`; None where it has nothing.

        A token that has died is replaced once: it may have been made before the instance slept.
        """
        if not self.token:
            self._renew()
        status, text = self._ask("GET", path, {"X-aws-ec2-metadata-token": self.token})
        if status == _UNAUTHORIZED:
            self._renew()
            status, text = self._ask("GET", path, {"X-aws-ec2-metadata-token": self.token})
        if status == _NOT_FOUND:
            return None
        if status != _OK:
            raise _Unreadable(f"HTTP status {status} for {path}")
        return text

    def need(self, path: str) -> str:
        """Return what the service must have; _Unreadable where it has nothing."""
        text = self.get(path)
        if not text:
            raise _Unreadable(f"nothing at {path}")
        return text

    def _renew(self) -> None:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
        self.token = ""
        status, text = self._ask("PUT", "api/token", headers)
        if status == _FORBIDDEN:
            raise _Unreadable("the instance's metadata is switched off (HTTP status 403)")
        if status != _OK or not text:
            raise _Unreadable(f"HTTP status {status} instead of a token")
        self.token = text

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        try:
            self._connection.request(method, f"/latest/{path}", headers=headers)
            answer = self._connection.getresponse()
            body = answer.read(_ANSWER_BYTES_MAX)
            return answer.status, body.decode(errors="replace")
        except TimeoutError as error:
            # A token's packet may make as few hops as it was sent for, by default one.
            raise _Unreadable(
                f"no answer to {method} {path}; is this host an EC2 instance, and does the daemon "
                "run in the host's network?"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Unreadable(f"{method} {path}: {type(error).__name__} {error}".strip()) from error


def _identity(session: _Session) -> Identity:
    """Read the node's identity; a piece that is missing fails the whole."""
    mac = session.need("meta-data/mac").strip()
    folder = f"{_MACS}{mac}/"
    try:
        return Identity(
            instance_id=session.need("meta-data/instance-id"),
            instance_type=session.need("meta-data/instance-type"),
            region=session.need("meta-data/placement/region"),
            zone=session.need("meta-data/placement/availability-zone"),
            mac=mac,
            vpc_id=session.need(f"{folder}vpc-id"),
            subnet_id=session.need(f"{folder}subnet-id"),
            security_group_ids=tuple(session.need(f"{folder}security-group-ids").split()),
            vpc_cidrs=tuple(
                map(IPv4Network, session.need(f"{folder}vpc-ipv4-cidr-blocks").split())
            ),
            private_ip=IPv4Address(session.need("meta-data/local-ipv4")),
        )
    except ValueError as error:
        raise _Unreadable(f"the identity makes no sense: {error}") from error


def _enis(session: _Session) -> tuple[MetadataEni, ...]:
    """Read every ENI, and leave out what is shown in part."""
    macs = [line.rstrip("/") for line in session.need(_MACS).split()]
    found = [eni for mac in macs if (eni := _eni(session, mac)) is not None]
    return tuple(sorted(found, key=lambda each: each.eni.device_index))


def _eni(session: _Session, mac: str) -> MetadataEni | None:
    """Read one ENI; None where a piece is missing or makes no sense, or on another network card."""
    folder = f"{_MACS}{mac}/"
    number, eni_id, addresses, subnet = (
        session.get(f"{folder}{name}")
        for name in ("device-number", "interface-id", "local-ipv4s", "subnet-ipv4-cidr-block")
    )
    if not (number and eni_id and eni_id.startswith("eni-") and addresses and subnet):
        return None
    prefixes = session.get(f"{folder}ipv4-prefix") or ""
    if (session.get(f"{folder}network-card") or "0").strip() != "0":
        return None
    try:
        # The first address is the primary one (ipamd: getENIMetadata).
        primary, *others = map(IPv4Address, addresses.split())
        blocks = (*map(IPv4Network, others), *map(IPv4Network, prefixes.split()))
        eni = AttachedEni(EniId(eni_id.strip()), int(number), primary, blocks)
        return MetadataEni(eni, mac, IPv4Network(subnet.strip()))
    except ValueError:
        return None
