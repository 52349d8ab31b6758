"""The lab's EC2: `sim/vpc.py` behind an HTTP endpoint that an unchanged boto3 talks to.

Every request takes EC2's latency, and its effect comes halfway between request and answer, as
in `sim/cloud.py`; with `CloudNumbers.instant()` nothing waits. Request buckets, missing
permissions and faults refuse requests with EC2's own codes. One `LabCloud` serves all nodes of
its VPC; who calls is told by the credentials that each instance gets from its own metadata.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from aiohttp import web

from sim.buckets import RequestBuckets
from sim.cloud_numbers import INSTANT, CloudNumbers
from sim.ec2_error import Ec2Error
from sim.lab.account import LabAccount, LabVpc, LinkChange
from sim.lab.actions import ACTIONS, bucket_of, take_effect
from sim.lab.faults import (
    NO_FAULT,
    Answer,
    CallRecord,
    Faults,
    LabFault,
    LabRequest,
    MetadataFaults,
)
from sim.lab.imds import MetadataService
from sim.lab.protocol import HttpAnswer, access_key_of, answer_of, parse_form
from sim.node_type import NodeType
from sim.streams import Draws
from sim.vpc import EniDescription, Vpc

CALLS_KEPT = 100_000

OnLink = Callable[[str, EniDescription, str], None]
"""Hears of a link: the instance, the ENI and its MAC address. Must not block for long."""

_GARBLED = b"<html><body>502 Bad Gateway</body></html><"


class LabCloud:
    """EC2 and the metadata of one VPC, in real time or any other.

    `now` is seconds on any clock that does not run backwards (one that does is held), and
    `sleep` waits on the same clock. Belongs to one event loop. `on_attached` and `on_detached`
    hear when a secondary ENI's link appears on a node and when it vanishes; an instance's
    primary link is made by whoever launches it.
    """

    def __init__(  # noqa: PLR0913 - the hooks are optional
        self,
        vpc: Vpc,
        numbers: CloudNumbers,
        draws: Draws,
        *,
        facts: LabVpc,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        on_attached: OnLink | None = None,
        on_detached: OnLink | None = None,
        faults: Faults | None = None,
        metadata_faults: MetadataFaults | None = None,
    ) -> None:
        """Start without instances, with full buckets and every permission."""
        self.account = LabAccount(vpc, facts, numbers, draws)
        self.denied: set[str] = set()
        """The APIs that no role of the account may use; to be changed at any time."""
        self.faults = faults
        self.metadata_faults = metadata_faults
        self.on_attached = on_attached
        self.on_detached = on_detached
        self.calls: deque[CallRecord] = deque(maxlen=CALLS_KEPT)
        """Every attempt that was answered, or left without an answer, in the order of its end."""
        self._numbers = numbers
        self._buckets = RequestBuckets(numbers.buckets)
        self._draws = draws
        self._clock = now
        self._sleep = sleep
        self._latest = 0.0
        self._request_ids = itertools.count(1)
        self._links: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Return the lab's time, which never runs backwards."""
        self._latest = max(self._latest, self._clock())
        return self._latest

    # Instances

    def launch(
        self,
        instance_id: str,
        node_type: NodeType,
        subnet_id: str,
        groups: tuple[str, ...] = (),
    ) -> EniDescription:
        """Start an instance; return its primary ENI. Ec2Error where EC2 would refuse."""
        return self.account.launch(instance_id, node_type, subnet_id, groups, self.now())

    def terminate(self, instance_id: str) -> None:
        """Stop an instance for good; ENIs without delete-on-termination stay behind."""
        self.account.terminate(instance_id, self.now())

    def mac_of(self, interface: EniDescription) -> str:
        """Return the MAC address of an ENI."""
        return self.account.note(interface.eni_id).mac

    # Serving

    def ec2_app(self) -> web.Application:
        """Return the application that speaks EC2's query protocol at `/`."""
        app = web.Application()
        closing = asyncio.Event()

        async def serve(http: web.Request) -> web.StreamResponse:
            return await self._serve(http, closing)

        async def release(_: web.Application) -> None:
            closing.set()

        app.router.add_post("/", serve)
        app.on_shutdown.append(release)
        return app

    def imds_app(self, instance_id: str) -> web.Application:
        """Return the application that is the metadata service of one instance."""
        return MetadataService(self.account, instance_id, self.now, self._metadata_fault).app()

    async def close(self) -> None:
        """Forget the links still to come or go."""
        for task in self._links:
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _metadata_fault(self, instance_id: str, path: str) -> LabFault | None:
        return None if self.metadata_faults is None else self.metadata_faults(instance_id, path)

    async def _serve(self, http: web.Request, closing: asyncio.Event) -> web.StreamResponse:
        """Answer one request."""
        start = self.now()
        form = {name: str(value) for name, value in (await http.post()).items()}
        request_id = f"lab-{next(self._request_ids):08d}"
        api = form.get("Action", "")
        key = access_key_of(http.headers.get("Authorization", ""))
        request = LabRequest(api, {}, self.account.caller_of(key))
        fault, code = NO_FAULT, ""
        try:
            request = LabRequest(api, _parameters_of(api, form), request.caller)
            fault = (self.faults and self.faults(request)) or NO_FAULT
            result = await self._attempt(request, fault, signed=bool(key))
            answer = answer_of(api, result, request_id)
        except Ec2Error as error:
            code = error.code
            answer = answer_of(api, error, request_id, fault.http_status)
        if fault.answer is not Answer.ERROR:
            code = fault.answer.name
        self.calls.append(
            CallRecord(api, start, self.now(), code, request.parameters, request.caller)
        )
        return await _send(http, answer, fault, closing)

    async def _attempt(
        self, request: LabRequest, fault: LabFault, *, signed: bool
    ) -> dict[str, Any]:
        """Let a request take its time and its effect; Ec2Error where it is refused."""
        delay = self._numbers.latencies.get(request.api, INSTANT)
        seconds = delay.at(self._draws.uniform(request.api)) if delay.median_s else 0.0
        half = (seconds + fault.delay_s) / 2
        await self._wait(half)
        try:
            result = self._arrive(request, fault, signed=signed)
        except Ec2Error:
            await self._wait(half)
            raise
        await self._wait(half)
        return result

    def _arrive(self, request: LabRequest, fault: LabFault, *, signed: bool) -> dict[str, Any]:
        """Do what EC2 does when the request reaches it."""
        if fault.fails and not fault.takes_effect:
            raise Ec2Error(fault.code or fault.answer.name, fault.message)
        now = self.now()
        if not self._buckets.take(bucket_of(request.api, request.parameters), now):
            raise Ec2Error("RequestLimitExceeded", "Request limit exceeded.")
        if not signed:
            raise Ec2Error(
                "AuthFailure", "AWS was not able to validate the provided access credentials"
            )
        if request.api in self.denied:
            raise Ec2Error(
                "UnauthorizedOperation",
                "You are not authorized to perform this operation. "
                f"No identity-based policy allows the ec2:{request.api} action",
            )
        result = take_effect(self.account, request.api, request.parameters, now)
        self._follow_links()
        if fault.code:
            raise Ec2Error(fault.code, fault.message)
        return result

    # Links and waiting

    def _follow_links(self) -> None:
        """Tell of links now where nothing is to be waited for, and later of the others."""
        for change in self.account.pop_link_changes():
            if change.at <= self.now():
                self._tell(change)
            else:
                self._start(self._tell_later(change))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._links.add(task)
        task.add_done_callback(self._links.discard)

    async def _tell_later(self, change: LinkChange) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._sleep(max(change.at - self.now(), 0.0))
            self._tell(change)

    def _tell(self, change: LinkChange) -> None:
        hook = self.on_attached if change.attached else self.on_detached
        if hook is not None:
            hook(change.instance_id, change.interface, change.mac)

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            await self._sleep(seconds)


def _parameters_of(api: str, form: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of a request; Ec2Error where the lab does not know the action."""
    if api not in ACTIONS:
        raise Ec2Error("InvalidAction", f"The action {api} is not valid for this web service.")
    return parse_form(api, form)


async def _send(
    http: web.Request, answer: HttpAnswer, fault: LabFault, closing: asyncio.Event
) -> web.StreamResponse:
    """Send the answer, or do what the fault says instead."""
    match fault.answer:
        case Answer.NOTHING:
            # Until the client goes away or the server closes: a client's limit ends the first.
            await closing.wait()
        case Answer.RESET:
            if http.transport is not None:
                http.transport.abort()
        case Answer.GARBLED:
            return web.Response(status=fault.http_status or 200, body=_GARBLED)
        case Answer.ERROR:
            pass
    return web.Response(
        status=answer.status, body=answer.body, content_type="text/xml", charset="UTF-8"
    )
