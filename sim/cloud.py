"""EC2 and the instance metadata as one node meets them, in simulated time.

A `CloudModel` answers the calls that the recipes make, as `cni/cloud/ec2.py` does for real: it
waits, asks the account's request buckets, lets `sim/vpc.py` take effect halfway between request
and answer (so that the effects of concurrent calls interleave), and repeats throttled attempts
as the SDK does. With `CloudNumbers.instant()` it never waits at all.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import inf
from typing import Any, assert_never

import simpy

from cni.allocator.actions import FailureReason
from cni.allocator.model import EniId
from cni.cloud import calls
from cni.cloud.calls import Call, CallError, Interface, Reply
from cni.cloud.codes import NO_ANSWER, reason_of
from sim.buckets import RequestBuckets
from sim.cloud_numbers import INSTANT, CloudNumbers
from sim.ec2_error import Ec2Error
from sim.metadata import MetadataCopy, attached_eni
from sim.streams import Draws
from sim.vpc import EniDescription, Vpc

Answer = Generator[simpy.Event, Any, Reply]
Wait = Generator[simpy.Event, Any, None]
OnCall = Callable[[str, float, float, str], None]
"""Hears of every attempt at EC2: API, start, end, and EC2's code or "" for success."""


@dataclass(frozen=True, slots=True)
class CallFault:
    """What goes wrong with one attempt, on purpose.

    With a `code` the attempt fails with it, before the effect or, if `takes_effect`, after it;
    with the code `RequestTimeout` no answer comes at all, and the SDK gives up after its
    time-out. `delay_s` is added to the latency.
    """

    code: str = ""
    message: str = "injected"
    takes_effect: bool = False
    delay_s: float = 0.0


_NO_FAULT = CallFault()

Faults = Callable[[Call, float], CallFault | None]
"""Asked at the start of every attempt and metadata read: the call and the instant."""


@dataclass(frozen=True, slots=True)
class Account:
    """What all nodes of an account share; `denied` are the APIs their role may not use."""

    numbers: CloudNumbers
    buckets: RequestBuckets
    vpc: Vpc
    denied: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, numbers: CloudNumbers, vpc: Vpc, denied: frozenset[str] = frozenset()) -> "Account":
        """Make an account with full buckets and every permission but those denied."""
        return cls(numbers, RequestBuckets(numbers.buckets), vpc, denied)


class CloudModel:
    """Answers the calls of one instance, which is launched already.

    `draws` belong to this node alone, so that the n-th call of an API meets the same latency
    whatever other nodes and other calls do. Attempts at EC2 are told to `on_call`; metadata
    reads and pauses are not, since they are no EC2 requests.
    """

    def __init__(  # noqa: PLR0913 - the two hooks are optional
        self,
        env: simpy.Environment,
        account: Account,
        instance_id: str,
        draws: Draws,
        *,
        on_call: OnCall | None = None,
        faults: Faults | None = None,
    ) -> None:
        """Show the ENIs that the instance has now in the metadata at once."""
        self._env = env
        self._account = account
        self._numbers = account.numbers
        self._vpc = account.vpc
        self._instance_id = instance_id
        self._draws = draws
        self._on_call = on_call
        self._faults = faults
        self._hung_up = False
        self._loose: set[EniId] = set()
        now = env.now
        interfaces = self._vpc.interfaces_of(instance_id, now)
        self._subnet_id = interfaces[0].subnet_id
        self._metadata = MetadataCopy()
        for interface in interfaces:
            self._metadata.note(interface, now, now)

    @property
    def subnet_id(self) -> str:
        """The subnet of the primary ENI."""
        return self._subnet_id

    def hang_up(self) -> None:
        """Answer no call any more: who asked is gone. What has reached EC2 stays done."""
        self._hung_up = True

    def orphans(self) -> tuple[EniId, ...]:
        """Return the ENIs that this node created and that hang on no instance, by age."""
        detached = set(self._vpc.detached(self._env.now))
        return tuple(sorted(self._loose & detached))

    def answer(self, call: Call) -> Answer:
        """Answer a call in simulated time; CallError if it failed for good.

        Throttled attempts are repeated, as boto3's standard mode does; an attempt that got no
        answer is not, because it may have taken effect.
        """
        if isinstance(call, calls.Pause):
            share = self._draws.uniform("pause") if call.jitter else 0.0
            yield from self._wait(call.seconds * (1 + call.jitter * share))
            yield from self._only_if_heard()
            return calls.Done()
        if isinstance(call, calls.ReadMetadata):
            return (yield from self._read_metadata(call))
        attempt = 0
        while True:
            try:
                return (yield from self._attempt(call))
            except Ec2Error as error:
                attempt += 1
                reason = reason_of(error.code, error.message)
                throttled = reason is FailureReason.THROTTLED
                if not throttled or attempt >= self._numbers.sdk.attempts:
                    raise CallError(reason, error.code, error.message) from error
            yield from self._wait(self._backoff(attempt))

    def _backoff(self, attempt: int) -> float:
        """Seconds before the next attempt; botocore: retries/standard.py, ExponentialBackoff."""
        sdk = self._numbers.sdk
        longest = sdk.backoff_base_s * 2.0 ** (attempt - 1)
        return min(self._draws.uniform("backoff") * longest, sdk.backoff_max_s)

    def _read_metadata(self, call: calls.ReadMetadata) -> Answer:
        """Read the copy; no bucket, no SDK and so no second attempt."""
        fault = self._fault(call)
        yield from self._wait(self._latency(call) + fault.delay_s)
        yield from self._only_if_heard()
        if fault.code:
            raise CallError(reason_of(fault.code, fault.message), fault.code, fault.message)
        return self._metadata.read(self._env.now)

    def _attempt(self, call: Call) -> Answer:
        """Send one request and wait for its answer; Ec2Error where it is refused.

        An answer slower than the SDK's time-out is none: what the request did, stays done.
        """
        started = self._env.now
        fault = self._fault(call)
        latency = self._latency(call) + fault.delay_s
        timeout_s = self._numbers.sdk.timeout_s or inf
        yield from self._wait(min(latency, timeout_s) / 2)
        yield from self._only_if_heard()
        refusal: Ec2Error | None = None
        try:
            reply = self._arrive(call, fault)
        except Ec2Error as error:
            refusal = error
        if latency > timeout_s:
            refusal = Ec2Error(NO_ANSWER, "EC2 answered too late.")
        silent = refusal is not None and refusal.code == NO_ANSWER
        ended = started + (self._numbers.sdk.timeout_s if silent else latency)
        yield from self._wait(ended - self._env.now)
        if self._on_call is not None:
            code = "" if refusal is None else refusal.code
            self._on_call(call.api, started, self._env.now, code)
        yield from self._only_if_heard()
        if refusal is not None:
            raise refusal
        return reply

    def _fault(self, call: Call) -> CallFault:
        """Ask what goes wrong with this attempt: nearly always nothing."""
        if self._faults is None:
            return _NO_FAULT
        return self._faults(call, self._env.now) or _NO_FAULT

    def _arrive(self, call: Call, fault: CallFault) -> Reply:
        """Do what EC2 does when the request reaches it."""
        if fault.code and not fault.takes_effect:
            raise Ec2Error(fault.code, fault.message)
        if not self._account.buckets.take(_bucket(call), self._env.now):
            raise Ec2Error("RequestLimitExceeded", "Request limit exceeded.")
        if call.api in self._account.denied:
            raise Ec2Error(
                "UnauthorizedOperation", f"You are not authorized to perform: ec2:{call.api}"
            )
        reply = self._effect(call, self._env.now)
        if fault.code:
            raise Ec2Error(fault.code, fault.message)
        return reply

    def _effect(  # noqa: C901, PLR0911 - a table with a row for each call
        self, call: Call, now: float
    ) -> Reply:
        """Let the call take effect in the VPC, and let the metadata learn of it later."""
        vpc = self._vpc
        match call:
            case calls.AssignPrivateIpAddresses(eni_id, kind, count):
                blocks = vpc.assign_private_ip_addresses(eni_id, kind, count, now)
                self._copy(eni_id, now)
                return calls.BlocksAssigned(blocks)
            case calls.UnassignPrivateIpAddresses(eni_id, blocks):
                vpc.unassign_private_ip_addresses(eni_id, blocks, now)
                self._copy(eni_id, now)
                return calls.Done()
            case calls.CreateNetworkInterface():
                return self._create(call, now)
            case calls.AttachNetworkInterface(eni_id, device_index):
                return self._attach(eni_id, device_index, now)
            case calls.ModifyNetworkInterfaceAttribute(eni_id, attachment_id):
                vpc.modify_network_interface_attribute(
                    eni_id, attachment_id, now, delete_on_termination=True
                )
                return calls.Done()
            case calls.DetachNetworkInterface(eni_id, attachment_id):
                return self._detach(eni_id, attachment_id, now)
            case calls.DeleteNetworkInterface(eni_id):
                vpc.delete_network_interface(eni_id, now)
                self._loose.discard(eni_id)
                return calls.Done()
            case calls.DescribeNetworkInterfaces(eni_ids):
                return self._interfaces(eni_ids, now)
            case calls.DescribeInstances():
                return calls.InstanceDescribed(vpc.describe_instances(self._instance_id, now))
            case calls.DescribeSubnets():
                subnets = vpc.describe_subnets(vpc.zone_of(self._instance_id))
                return calls.SubnetsDescribed(
                    tuple(
                        calls.UsableSubnet(
                            subnet.subnet_id, subnet.free, own=subnet.subnet_id == self._subnet_id
                        )
                        for subnet in subnets
                    )
                )
            case calls.ReadMetadata() | calls.Pause():
                raise AssertionError(call)
            case _:
                assert_never(call)

    def _create(self, call: calls.CreateNetworkInterface, now: float) -> Reply:
        # Tokens belong to the whole account, and two nodes may well number alike.
        token = f"{self._instance_id}/{call.client_token}"
        subnet_id = call.subnet_id or self._subnet_id
        interface = self._vpc.create_network_interface(
            subnet_id, call.kind, call.blocks, token, now
        )
        self._loose.add(interface.eni_id)
        return calls.InterfaceCreated(interface.eni_id, interface.primary_ip, interface.blocks)

    def _attach(self, eni_id: EniId, device_index: int, now: float) -> Reply:
        attachment_id = self._vpc.attach_network_interface(
            eni_id, self._instance_id, device_index, now
        )
        delay = self._numbers.eni_visible.at(self._draws.uniform("visible"))
        (interface,) = self._vpc.describe_network_interfaces((eni_id,), now)
        self._metadata.note(interface, now + delay, now)
        return calls.InterfaceAttached(attachment_id)

    def _detach(self, eni_id: EniId, attachment_id: str, now: float) -> Reply:
        shortest, longest = self._numbers.detach_min_s, self._numbers.detach_max_s
        gone_at = now + shortest + (longest - shortest) * self._draws.uniform("detach")
        self._vpc.detach_network_interface(eni_id, attachment_id, now, gone_at=gone_at)
        self._metadata.forget(eni_id, gone_at + self._lag(), now)
        return calls.Done()

    def _interfaces(self, eni_ids: tuple[EniId, ...], now: float) -> Reply:
        if eni_ids:
            found = self._vpc.describe_network_interfaces(eni_ids, now)
        else:
            found = self._vpc.interfaces_of(self._instance_id, now)
        described = sorted(map(_described, found), key=lambda shown: shown.eni.device_index)
        return calls.InterfacesDescribed(tuple(described))

    def _copy(self, eni_id: EniId, now: float) -> None:
        """Let the metadata show, after its lag, which blocks an attached ENI has now."""
        (interface,) = self._vpc.describe_network_interfaces((eni_id,), now)
        attachment = interface.attachment
        if attachment is not None and attachment.instance_id == self._instance_id:
            self._metadata.note(interface, now + self._lag(), now)

    def _lag(self) -> float:
        return self._numbers.copy_lag.at(self._draws.uniform("copy_lag"))

    def _latency(self, call: Call) -> float:
        delay = self._numbers.latencies.get(call.api, INSTANT)
        return delay.at(self._draws.uniform(call.api)) if delay.median_s else 0.0

    def _only_if_heard(self) -> Wait:
        """Go no further where who asked has gone: wait for what never comes."""
        if self._hung_up:
            yield self._env.event()

    def _wait(self, seconds: float) -> Wait:
        """Let simulated time pass; no time costs no event, so that no other process runs."""
        if seconds > 0:
            yield self._env.timeout(seconds)


def _bucket(call: Call) -> str:
    """Name the request bucket: ids are no filter, so they draw from the smaller one."""
    if isinstance(call, calls.DescribeInstances) or (
        isinstance(call, calls.DescribeNetworkInterfaces) and call.eni_ids
    ):
        return f"{call.api} unfiltered"
    return call.api


def _described(interface: EniDescription) -> Interface:
    attachment = interface.attachment
    attachment_id = "" if attachment is None else attachment.attachment_id
    return Interface(attached_eni(interface), attachment_id)
