"""EC2 through boto3: answers a Call with a Reply or a CallError.

The one funnel for requests to EC2: pace, worker threads, time-outs, attempts, the hook for
metrics, and the reading of errors are written once, around all of them. boto3 is told to make
one attempt; the further ones of its standard retry mode are made here, because the SDK would
also repeat an assign whose answer was lost, and leave the node with twice the addresses.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from cni.allocator.actions import FailureReason
from cni.allocator.model import EniId
from cni.cloud import calls
from cni.cloud.calls import MUTATING, Call, CallError, Reply
from cni.cloud.codes import NO_ANSWER, NO_CREDENTIALS, reason_of
from cni.cloud.described import (
    DescribedEni,
    NodeEnis,
    Shape,
    TypeLimits,
    eni_of,
    limits_of,
    sort_out,
)
from cni.cloud.identity import Identity
from cni.cloud.options import Ec2Options
from cni.cloud.pace import DESCRIBING_SHARE, MUTATING_SHARE, Pace
from cni.cloud.requests import Asker, only, reply_of, request_of, tag_list
from cni.cloud.tags import CLUSTER, INSTANCE_ID

ACTIONS: frozenset[str] = MUTATING | {
    "CreateTags",
    "DescribeInstanceTypes",
    "DescribeInstances",
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
}
"""Every EC2 action that this plug-in uses: what the node's role must allow."""

ATTEMPTS = 3
BACKOFF_MAX_S = 20.0
"""As botocore's standard retry mode: `random() * 2**i` seconds between attempts, up to this."""

THREADS = 8
PAGE = 1000

Value = TypeVar("Value")

OnCall = Callable[[str, float, str], None]
"""Hears of every attempt: API, seconds, and EC2's code or "" for success."""

# Asked twice they have the effect of once, so a lost answer is no reason to give up. A create
# has its token; deleting again finds nothing, which is what was wanted. An attach or a detach
# that took effect would be refused, and the refusal read as a failure.
_REPEATABLE = (ACTIONS - MUTATING) | {
    "CreateNetworkInterface",
    "DeleteNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
}

_NOT_SENT = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError)
_NOT_SIGNED = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
)
_SERVER_ERROR = 500
_UNREADABLE = "UnreadableAnswer"


@dataclass(frozen=True, slots=True)
class Timing:
    """Whose time it is, and whose chance: `now` is monotonic, `unix` the time of day.

    `uniform` returns a number from 0 to 1, for the pauses between attempts.
    """

    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    unix: Callable[[], float]
    uniform: Callable[[], float]


class Ec2:
    """Performs the calls of one node; several at once, each in a thread of its own.

    Raises CallError and nothing else for what EC2, the network or the SDK do. Close it.
    """

    def __init__(
        self,
        make_client: Callable[[], Any],
        asker: Asker,
        timing: Timing,
        *,
        on_call: OnCall | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Take what makes a client, as `connect` does; `pace` None is a fifth of EC2's buckets."""
        self._make_client = make_client
        self._client: Any = None
        self._making = threading.Lock()
        self._asker = asker
        self._timing = timing
        self._on_call = on_call
        self._pace = pace or Pace(
            {api: MUTATING_SHARE if api in MUTATING else DESCRIBING_SHARE for api in ACTIONS}
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ec2")

    @classmethod
    def connect(
        cls,
        identity: Identity,
        options: Ec2Options,
        timing: Timing,
        *,
        on_call: OnCall | None = None,
    ) -> "Ec2":
        """Make an Ec2 that finds credentials where boto3 does, when the first call needs them."""
        config = Config(
            connect_timeout=options.timeout_s,
            read_timeout=options.timeout_s,
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=THREADS,
            user_agent_extra=f"warmbench/{options.version or '0'}",
        )

        def make_client() -> Any:  # noqa: ANN401 - boto3 makes the class of a client when it runs
            session = boto3.session.Session(region_name=identity.region)
            return session.client("ec2", endpoint_url=options.endpoint_url, config=config)

        return cls(make_client, Asker(identity, options), timing, on_call=on_call)

    def close(self) -> None:
        """Take no more calls; those under way end by their time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    # Calls of recipes

    async def answer(self, call: Call) -> Reply:
        """Answer a call that is one to EC2; CallError if it failed for good.

        Throttled attempts are repeated; those that got no answer only where that is safe.
        """
        asker = self._asker
        if isinstance(call, calls.DescribeSubnets) and not asker.options.discovers_subnets:
            # How much is free in the only subnet decides nothing.
            own = calls.UsableSubnet(asker.identity.subnet_id, 0, own=True)
            return calls.SubnetsDescribed((own,))
        request = request_of(call, asker, self._timing.unix())
        answer = await self._ask(request.api, request.parameters)
        return _readable(call.api, lambda shape: reply_of(call, shape, asker), answer)

    # What is no recipe's call

    @property
    def wanted_tags(self) -> Mapping[str, str]:
        """The tags that every managed ENI should have; `tags.missing_tags` compares."""
        return self._asker.tags

    async def managed_enis(self) -> NodeEnis:
        """Describe the ENIs of this node: the managed ones, and which indices others take."""
        identity, options = self._asker.identity, self._asker.options
        enis = await self._enis([only("attachment.instance-id", identity.instance_id)])
        return sort_out(enis, identity.instance_id, manages_untagged=options.manages_untagged)

    async def tag_eni(self, eni_id: EniId, tags: Mapping[str, str]) -> None:
        """Add tags to an ENI, or change them."""
        await self._ask("CreateTags", {"Resources": [eni_id], "Tags": tag_list(tags)})

    async def leaked_candidates(self) -> tuple[DescribedEni, ...]:
        """Describe detached ENIs of this VPC, and of this cluster if it is named, that a node made.

        `cni.daemon.leaks` says which of them are leaked.
        """
        options = self._asker.options
        filters = [
            only("tag-key", INSTANCE_ID),
            only("status", "available"),
            only("vpc-id", self._asker.identity.vpc_id),
        ]
        if options.cluster_name:
            filters.append(only(f"tag:{CLUSTER}", options.cluster_name))
        return await self._enis(filters)

    async def delete_eni(self, eni_id: EniId) -> None:
        """Delete a detached ENI; CallError with ENI_GONE where somebody else did."""
        await self._ask("DeleteNetworkInterface", {"NetworkInterfaceId": eni_id})

    async def describe_instance_type(self, instance_type: str) -> TypeLimits:
        """Ask EC2 for the limits of a type that `instance_limits` does not know."""
        answer = await self._ask("DescribeInstanceTypes", {"InstanceTypes": [instance_type]})
        return _readable(
            "DescribeInstanceTypes", lambda shape: limits_of(shape["InstanceTypes"][0]), answer
        )

    async def _enis(self, filters: list[dict[str, Any]]) -> tuple[DescribedEni, ...]:
        """Describe ENIs page by page."""
        found: list[DescribedEni] = []
        page: dict[str, Any] = {"Filters": filters, "MaxResults": PAGE}
        while True:
            answer = await self._ask("DescribeNetworkInterfaces", page)
            found += _readable(
                "DescribeNetworkInterfaces",
                lambda shape: [eni_of(each) for each in shape["NetworkInterfaces"]],
                answer,
            )
            if not answer.get("NextToken"):
                return tuple(found)
            page = page | {"NextToken": answer["NextToken"]}

    # The funnel

    async def _ask(self, api: str, parameters: Mapping[str, Any]) -> Shape:
        """Make as many attempts as are of use, and tell the last failure."""
        for attempt in range(1, ATTEMPTS + 1):
            wait_s = self._pace.reserve(api, self._timing.now())
            if wait_s > 0:
                await self._timing.sleep(wait_s)
            try:
                return await self._attempt(api, parameters)
            except _Failed as failed:
                if attempt == ATTEMPTS or not failed.may_repeat(api):
                    raise failed.error from failed.__cause__
            longest = min(2.0 ** (attempt - 1), BACKOFF_MAX_S)
            await self._timing.sleep(self._timing.uniform() * longest)
        raise AssertionError(api)

    async def _attempt(self, api: str, parameters: Mapping[str, Any]) -> Shape:
        """Make one request in a worker thread, and tell the hook how it went."""
        request = partial(self._request, api, parameters)
        started = self._timing.now()
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, request)
        except (BotoCoreError, ClientError, ResponseParserError, OSError) as error:
            failed = _Failed(_call_error(error), was_sent=not isinstance(error, _NOT_SENT))
            self._tell(api, started, failed.error.code)
            raise failed from error
        self._tell(api, started, "")
        return answer

    def _request(self, api: str, parameters: Mapping[str, Any]) -> Shape:
        """Make one request, in a worker thread, where the client is made as well.

        boto3 looks for credentials once, when it makes a client. Without any, the next attempt
        gets a client of its own: the metadata that has them may have been late.
        """
        with self._making:
            if self._client is None:
                self._client = self._make_client()
            client = self._client
        try:
            answer: Shape = getattr(client, xform_name(api))(**parameters)
        except _NOT_SIGNED:
            with self._making:
                if self._client is client:
                    self._client = None
            raise
        return answer

    def _tell(self, api: str, started: float, code: str) -> None:
        if self._on_call is not None:
            self._on_call(api, self._timing.now() - started, code)


class _Failed(Exception):  # noqa: N818 - an attempt, of which there may be more
    """One attempt failed."""

    def __init__(self, error: CallError, *, was_sent: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self._was_sent = was_sent

    def may_repeat(self, api: str) -> bool:
        """Tell whether a further attempt can help and does no harm."""
        if not self._was_sent or self.error.reason is FailureReason.THROTTLED:
            return True
        return self.error.reason is FailureReason.UNKNOWN_OUTCOME and api in _REPEATABLE


def _readable(api: str, read: Callable[[Shape], Value], answer: Shape) -> Value:
    """Read an answer; one that makes no sense says nothing of what EC2 did."""
    try:
        return read(answer)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        message = f"the answer to {api} cannot be read: {type(error).__name__} {error}"
        raise CallError(FailureReason.UNKNOWN_OUTCOME, _UNREADABLE, message) from error


def _call_error(error: Exception) -> CallError:
    """Say what an error of the SDK means, by the one table of codes."""
    if isinstance(error, ClientError):
        return _refusal(error)
    if isinstance(error, _NOT_SIGNED):
        message = (
            f"no AWS credentials ({error}); give the node an IAM role by its instance profile, "
            "or the daemon's service account one"
        )
        return CallError(reason_of(NO_CREDENTIALS, ""), NO_CREDENTIALS, _line(message))
    if isinstance(error, ResponseParserError):
        return CallError(FailureReason.UNKNOWN_OUTCOME, _UNREADABLE, _line(str(error)))
    if isinstance(error, ReadTimeoutError):
        return CallError(reason_of(NO_ANSWER, ""), NO_ANSWER, _line(str(error)))
    code = type(error).__name__
    return CallError(reason_of(code, ""), code, _line(str(error)))


def _refusal(error: ClientError) -> CallError:
    """Read EC2's own error."""
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    reason = reason_of(code, message)
    if reason is FailureReason.OTHER and status >= _SERVER_ERROR:
        # A code that the table does not know, or none, as a proxy in between sends it.
        reason = FailureReason.UNKNOWN_OUTCOME
    return CallError(reason, code, _line(message))


def _line(text: str) -> str:
    """Return a text in one line, cut where nobody reads on."""
    return " ".join(text.split())[:500]
