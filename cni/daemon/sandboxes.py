"""ADD, DEL, CHECK, GC and STATUS, step by step, with their undo.

    ADD    assign; write to the ledger and install in the kernel, side by side; answer
    DEL    remove from the kernel, write to the ledger, release, answer

Commands for one sandbox run one after the other. Nothing here is cancelled halfway: a caller
that hangs up ends a wait, and an ADD that nobody hears the answer of is undone.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any, NoReturn, Protocol

import structlog

from cni.allocator.allocator import Allocator
from cni.allocator.errors import Cause, NoFreeAddress, UnknownSandbox
from cni.allocator.model import Assignment, SandboxKey
from cni.daemon.caller import Caller
from cni.daemon.clock import Clock
from cni.daemon.holdings import Holding
from cni.daemon.ledger import LedgerError
from cni.daemon.netlink_thread import NetlinkThread
from cni.network.desired import NetworkOptions, PodNetwork, host_link_name, table_of
from cni.network.netlink import NetworkError, PodLinks
from cni.spec.command import Add, Check, Del, Gc, NetConf
from cni.spec.errors import CniError, Code
from cni.spec.result import Interface, IpConfig, Result, parse_result

NEXT_STEP: Mapping[Cause, str] = {
    Cause.POOL_EMPTY: "the pool is being refilled; the kubelet retries",
    Cause.ALL_COOLING: "every unused address cools down; see IP_COOLDOWN_PERIOD and WARM_IP_TARGET",
    Cause.ENI_LIMIT: "the instance type holds no more addresses; use prefixes or a larger type",
    Cause.MAX_PODS: "the node holds as many addresses as it may run pods; check max-pods",
    Cause.SUBNET_FULL: "the subnet has no free address; free some or add a subnet",
    Cause.SUBNET_FRAGMENTED: "the subnet has no free /28; reserve a CIDR for prefixes",
    Cause.THROTTLED: "EC2 throttles this account; fewer calls: raise MINIMUM_IP_TARGET",
    Cause.DENIED: "the node's role lacks an EC2 permission; compare it with iam-policy.json",
    Cause.METADATA_LAG: "a new ENI does not show up on the node yet; the kubelet retries",
    Cause.STARTING: "the daemon is starting; the kubelet retries",
}
"""What to do about each cause, in a few words of the CNI error."""


class Watcher(Protocol):
    """Who hears of commands: metrics."""

    def add_request(self) -> None:
        """Hear of an ADD."""
        ...

    def del_request(self, reason: str) -> None:
        """Hear of a DEL and what it came from."""
        ...

    def refused(self, cause: Cause) -> None:
        """Hear that an ADD found no address."""
        ...

    def waited(self, seconds: float) -> None:
        """Hear how long an ADD waited in line, served or not."""
        ...

    def added(self, seconds: float) -> None:
        """Hear how long an ADD took that succeeded."""
        ...

    def deleted(self, seconds: float) -> None:
        """Hear how long a DEL took that succeeded."""
        ...


class Books(Protocol):
    """Who writes down what sandboxes hold; each returns once it is on disk, or LedgerError."""

    async def assigned(self, holding: Holding) -> None:
        """Write down that a sandbox holds an address."""
        ...

    async def released(self, sandbox: SandboxKey, address: IPv4Address, now_unix: float) -> None:
        """Write down that it gave it back."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What commands go by: the network's options, how long an ADD may wait, steps for tests."""

    options: NetworkOptions
    add_wait_s: float
    reached: Callable[[str], None] = lambda _step: None


class Sandboxes:
    """The sandboxes of one node, and every command about them."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part it is wired to
        self,
        allocator: Allocator,
        ledger: Books,
        netlink: NetlinkThread,
        clock: Clock,
        unix_now: Callable[[], float],
        terms: Terms,
        poke: Callable[[], None],
        watcher: Watcher,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """Know no sandbox yet; `restore` brings those of an earlier life."""
        self._allocator = allocator
        self._ledger = ledger
        self._netlink = netlink
        self._clock = clock
        self._unix_now = unix_now
        self._terms = terms
        self._poke = poke
        self._watcher = watcher
        self._log = log
        self._holdings: dict[SandboxKey, Holding] = {}
        self._fresh: set[SandboxKey] = set()
        """Sandboxes that came with the last ADD: it is theirs to be undone."""
        self._line: dict[SandboxKey, asyncio.Future[Assignment]] = {}
        self._turns: dict[SandboxKey, list[asyncio.Future[None]]] = {}
        self._stopping = False

    # Looking.

    @property
    def holdings(self) -> Mapping[SandboxKey, Holding]:
        """Who holds what, oldest first."""
        return self._holdings

    def pod(self, holding: Holding) -> PodNetwork:
        """Return what the kernel must have for a holding."""
        return PodNetwork(
            holding.host_link,
            holding.sandbox.ifname,
            holding.address,
            table_of(holding.device_index),
            self._terms.options.pod_mtu,
        )

    def is_busy(self, sandbox: SandboxKey) -> bool:
        """Tell whether a command for this sandbox is under way."""
        return sandbox in self._turns

    # From an earlier life.

    def restore(self, holding: Holding) -> None:
        """Take in what the ledger says, once allocator and kernel agree."""
        self._holdings[holding.sandbox] = holding

    # Commands.

    async def add(self, command: Add, caller: Caller) -> Result:
        """Give a sandbox its address; again for the same sandbox: the same one.

        Raises CniError: try again later (11) where no address came in time, I/O failure (5)
        where ledger or kernel failed. Whatever was done is undone.
        """
        self._watcher.add_request()
        started = self._clock.now()
        sandbox = _key(command)
        netns = _namespace(command.netns, caller)
        async with self._turn(sandbox):
            holding = self._holdings.get(sandbox)
            if holding is not None:
                # An earlier ADD was answered: what becomes of this one undoes nothing of it.
                self._fresh.discard(sandbox)
                links = await self._install(holding, netns)
            else:
                holding = await self._hold(command, sandbox, caller)
                links = await self._write_and_install(holding, netns)
                self._fresh.add(sandbox)
                if caller.gone.is_set():
                    await self._undo(holding)
                    raise CniError(Code.TRY_AGAIN_LATER, "the caller hung up")
        self._terms.reached("ADD.installed")
        self._watcher.added(self._clock.now() - started)
        return _result(holding, links, command.netns, self._terms.options.pod_mtu)

    async def unheard(self, command: Add) -> None:
        """Undo an ADD whose answer could not be given: its caller takes it for failed."""
        sandbox = _key(command)
        async with self._turn(sandbox):
            holding = self._holdings.get(sandbox)
            if holding is not None and sandbox in self._fresh:
                await self._undo(holding)

    async def delete(self, command: Del, reason: str = "DEL") -> None:
        """Take a sandbox's address back; nothing left to do is success.

        Raises CniError with code 5 where kernel or ledger failed; the runtime comes again.
        """
        self._watcher.del_request(reason)
        started = self._clock.now()
        sandbox = _key(command)
        self._turn_away(sandbox, CniError(Code.TRY_AGAIN_LATER, "a DEL came meanwhile"))
        async with self._turn(sandbox):
            holding = self._holdings.get(sandbox)
            if holding is not None:
                await self._drop(holding)
        self._watcher.deleted(self._clock.now() - started)

    async def forget(self, holding: Holding, reason: str) -> None:
        """Do a DEL that nobody sends: GC, a tombstone, or a sandbox whose link is gone."""
        self._log.info("sandbox forgotten", reason=reason, **_about(holding))
        key = holding.sandbox
        conf = NetConf("1.0.0", key.network, "", None, None, {})
        await self.delete(Del(conf, key.container_id, key.ifname, "", {}), reason)

    async def check(self, command: Check, caller: Caller) -> None:
        """Compare the ledger, the runtime's prevResult and the kernel; CniError if they differ."""
        sandbox = _key(command)
        netns = _namespace(command.netns, caller)
        try:
            async with self._turn(sandbox):
                holding = self._holdings.get(sandbox)
                if holding is None:
                    raise CniError(
                        Code.UNKNOWN_CONTAINER,
                        "this sandbox holds no address here",
                        "the runtime must DEL it and ADD it again",
                    )
                _compare(command, holding)
                pod = self.pod(holding)
                missing = await self._netlink.do(lambda kernel: kernel.missing_of_pod(pod, netns))
        except NetworkError as error:
            raise CniError(Code.NETWORK_FAILURE, str(error)) from error
        if missing:
            raise CniError(
                Code.NOT_AS_EXPECTED, "; ".join(missing), "delete the pod, or ADD it again"
            )

    async def collect(self, command: Gc) -> None:
        """Drop every sandbox of this network that the runtime no longer names.

        Raises CniError for what could not be dropped, after all the others were (CNI 1.1, GC).
        """
        assert command.conf.valid_attachments is not None, "spec.command sees to it"
        valid = {(one.container_id, one.ifname) for one in command.conf.valid_attachments}
        stale = [
            holding
            for key, holding in self._holdings.items()
            if key.network == command.conf.name and (key.container_id, key.ifname) not in valid
        ]
        failures: list[CniError] = []
        for holding in stale:
            try:
                await self.forget(holding, "GC")
            except CniError as error:
                failures.append(error)
        if failures:
            said = f"{len(failures)} of {len(stale)} sandboxes stay: {failures[-1].message}"
            raise CniError(failures[-1].code, said, "the next GC tries again")

    def status(self) -> None:
        """Return if an ADD could be served now or soon; else CniError 50 or 51."""
        now = self._clock.now()
        counts = self._allocator.counts(now)
        if counts.addresses_total - counts.assigned - counts.cooling > 0:
            return
        refusal = self._allocator.refusal(now)
        if not refusal.may_come:
            cause = refusal.cause
            raise CniError(Code.LIMITED_CONNECTIVITY, cause.value, NEXT_STEP[cause])

    # In line for an address.

    def served(self, assignment: Assignment) -> None:
        """Hear that a sandbox that waits in line has its address."""
        self._line[assignment.sandbox].set_result(assignment)

    def stop(self) -> None:
        """Refuse everyone who waits in line, and who would wait from now on."""
        self._stopping = True
        for sandbox in self._line:
            self._turn_away(sandbox, _stopping())

    def _turn_away(self, sandbox: SandboxKey, error: CniError) -> None:
        """End a wait now: from here on no address may come to it any more."""
        waiting = self._line.get(sandbox)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
            self._allocator.stop_waiting(sandbox, self._clock.now())

    async def _obtain(self, sandbox: SandboxKey, caller: Caller) -> Assignment:
        """Return an address at once, or after a wait in line."""
        try:
            return self._allocator.assign(sandbox, self._clock.now())
        except NoFreeAddress as refusal:
            if self._stopping:
                raise _stopping() from refusal
            if not self._terms.add_wait_s or not refusal.may_come:
                raise self._refusal(refusal) from refusal
        finally:
            self._poke()
        return await self._wait(sandbox, caller)

    async def _wait(self, sandbox: SandboxKey, caller: Caller) -> Assignment:
        """Wait in line until served, out of patience, hung up or told to stop."""
        started = self._clock.now()
        loop = asyncio.get_running_loop()
        line: asyncio.Future[Assignment] = loop.create_future()
        self._line[sandbox] = line
        self._allocator.wait(sandbox, started)
        self._poke()
        gone = loop.create_task(caller.gone.wait())
        try:
            ends: set[asyncio.Future[Any]] = {line, gone}
            await asyncio.wait(ends, timeout=self._terms.add_wait_s, return_when="FIRST_COMPLETED")
        finally:
            gone.cancel()
            del self._line[sandbox]
            now = self._clock.now()
            self._watcher.waited(now - started)
            if not line.done():
                self._allocator.stop_waiting(sandbox, now)
            self._poke()
        if line.done():
            return line.result()
        if caller.gone.is_set():
            raise CniError(Code.TRY_AGAIN_LATER, "the caller hung up")
        refusal = self._allocator.refusal(now)
        raise self._refusal(refusal, waited_s=self._terms.add_wait_s) from refusal

    def _refusal(self, refusal: NoFreeAddress, waited_s: float = 0.0) -> CniError:
        """Translate a refusal: the one table from the allocator's causes to CNI errors."""
        self._watcher.refused(refusal.cause)
        waited = f" after {waited_s:.0f} s" if waited_s else ""
        return CniError(
            Code.TRY_AGAIN_LATER,
            f"no free address{waited}: {refusal.cause.value}",
            NEXT_STEP[refusal.cause],
        )

    # Steps and their undo.

    async def _hold(self, command: Add, sandbox: SandboxKey, caller: Caller) -> Holding:
        """Assign an address, at once or after a wait."""
        assignment = await self._obtain(sandbox, caller)
        self._terms.reached("ADD.assigned")
        options = self._terms.options
        namespace = command.args.get("K8S_POD_NAMESPACE", "")
        name = command.args.get("K8S_POD_NAME", "")
        holding = Holding(
            sandbox=sandbox,
            address=assignment.address,
            eni_id=assignment.eni_id,
            device_index=assignment.device_index,
            host_link=_host_link(options.link_prefix, sandbox, namespace, name),
            pod_namespace=namespace,
            pod_name=name,
            netns=command.netns,
            since_unix=self._unix_now(),
        )
        self._holdings[sandbox] = holding
        return holding

    async def _write_and_install(self, holding: Holding, netns: int) -> PodLinks:
        """Put a new holding on disk and into the kernel, side by side; undone where either fails.

        Neither needs the other: what a crash leaves in the kernel alone, the next start removes.
        """
        writing = asyncio.ensure_future(self._ledger.assigned(holding))
        writing.add_done_callback(lambda _: self._terms.reached("ADD.written"))
        pod = self.pod(holding)
        try:
            links = await self._netlink.do(lambda kernel: kernel.install_pod(pod, netns))
        except NetworkError as error:
            if await _failure_of(writing) is None:
                await self._give_up(holding, error)
            self._forget_unwritten(holding)
            raise _kernel_refused(error) from error
        failure = await _failure_of(writing)
        if failure is None:
            return links
        with suppress(NetworkError):
            await self._netlink.do(lambda kernel: kernel.remove_pod(pod))
        self._forget_unwritten(holding)
        raise CniError(Code.IO_FAILURE, str(failure)) from failure

    def _forget_unwritten(self, holding: Holding) -> None:
        """Give back what never stood in the ledger, or does not any more."""
        self._release(holding.sandbox)
        self._holdings.pop(holding.sandbox, None)

    async def _install(self, holding: Holding, netns: int) -> PodLinks:
        pod = self.pod(holding)
        try:
            return await self._netlink.do(lambda kernel: kernel.install_pod(pod, netns))
        except NetworkError as error:
            await self._give_up(holding, error)

    async def _give_up(self, holding: Holding, error: NetworkError) -> NoReturn:
        """Undo an ADD that the kernel refused."""
        self._log.warning("ADD failed in the kernel", error=str(error), **_about(holding))
        await self._undo(holding)
        raise _kernel_refused(error) from error

    async def _undo(self, holding: Holding) -> None:
        """Give an address back; where even that fails the holding stays, and a DEL follows."""
        with suppress(CniError):
            await self._drop(holding)

    async def _drop(self, holding: Holding) -> None:
        """Remove from the kernel, write it down, release: in this order, each repeatable.

        Released last: a DEL whose ledger fails comes again, and what it removes from the kernel
        must not be another sandbox's by then.
        """
        sandbox = holding.sandbox
        pod = self.pod(holding)
        try:
            await self._netlink.do(lambda kernel: kernel.remove_pod(pod))
            self._terms.reached("DEL.removed")
            await self._ledger.released(sandbox, holding.address, self._unix_now())
        except NetworkError as error:
            raise CniError(Code.NETWORK_FAILURE, str(error), "the runtime retries") from error
        except LedgerError as error:
            raise CniError(Code.IO_FAILURE, str(error), "the runtime retries") from error
        self._release(sandbox)
        del self._holdings[sandbox]
        self._fresh.discard(sandbox)
        self._terms.reached("DEL.written")

    def _release(self, sandbox: SandboxKey) -> None:
        # A restart may have dropped what a sandbox holds: its address is on no ENI any more.
        with suppress(UnknownSandbox):
            self._allocator.release(sandbox, self._clock.now())
        self._poke()

    @asynccontextmanager
    async def _turn(self, sandbox: SandboxKey) -> AsyncIterator[None]:
        """Let the commands of one sandbox through one at a time, in order of arrival."""
        queue = self._turns.get(sandbox)
        if queue is None:
            self._turns[sandbox] = []
        else:
            turn = asyncio.get_running_loop().create_future()
            queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    # Its turn had come already: it is the next one's.
                    self._next_turn(sandbox)
                raise
        try:
            yield
        finally:
            self._next_turn(sandbox)

    def _next_turn(self, sandbox: SandboxKey) -> None:
        queue = self._turns[sandbox]
        while queue:
            turn = queue.pop(0)
            if not turn.done():
                turn.set_result(None)
                return
        del self._turns[sandbox]


def _key(command: Add | Del | Check) -> SandboxKey:
    return SandboxKey(command.conf.name, command.container_id, command.ifname)


def _host_link(prefix: str, sandbox: SandboxKey, namespace: str, name: str) -> str:
    """Name the host's link as upstream does, and by the sandbox where no pod is named."""
    if not name:
        return host_link_name(prefix, sandbox.network, f"{sandbox.container_id}.{sandbox.ifname}")
    if sandbox.ifname != "eth0":
        name = f"{name}.{sandbox.ifname}"
    return host_link_name(prefix, namespace, name)


def _namespace(path: str, caller: Caller) -> int:
    """Return the pod's namespace, which must have come with the command and be no other's.

    The daemon never opens the path itself: it may name another thing where the daemon looks.
    """
    if caller.netns is None:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_NETNS {path} cannot be opened by the plug-in",
            "the sandbox's network namespace is gone, or the runtime gave a wrong path",
        )
    if os.path.samestat(os.fstat(caller.netns), Path("/proc/thread-self/ns/net").stat()):
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_NETNS {path} is the node's own network namespace",
            "a pod in the host's network needs no CNI",
        )
    return caller.netns


async def _failure_of(writing: asyncio.Future[None]) -> LedgerError | None:
    """Wait for the ledger, and return why it failed, if it did."""
    try:
        await writing
    except LedgerError as error:
        return error
    return None


def _kernel_refused(error: NetworkError) -> CniError:
    return CniError(Code.NETWORK_FAILURE, str(error), "the kubelet retries")


def _stopping() -> CniError:
    return CniError(Code.TRY_AGAIN_LATER, "the daemon is stopping", NEXT_STEP[Cause.STARTING])


def _about(holding: Holding) -> dict[str, str]:
    return {
        "pod": f"{holding.pod_namespace}/{holding.pod_name}",
        "container": holding.sandbox.container_id,
        "address": str(holding.address),
    }


def _result(holding: Holding, links: PodLinks, netns: str, mtu: int) -> Result:
    return Result(
        interfaces=(
            Interface(holding.host_link, links.host_mac, mtu),
            Interface(holding.sandbox.ifname, links.pod_mac, mtu, netns),
        ),
        ips=(IpConfig(IPv4Interface(f"{holding.address}/32"), None, 1),),
    )


def _compare(command: Check, holding: Holding) -> None:
    """Hold the runtime's prevResult against the ledger."""
    assert command.conf.prev_result is not None, "spec.command sees to it"
    previous = parse_result(command.conf.prev_result)
    if holding.address not in {one.address.ip for one in previous.ips}:
        shown = ", ".join(str(one.address) for one in previous.ips) or "none"
        raise CniError(
            Code.NOT_AS_EXPECTED,
            f"prevResult has {shown}, the sandbox holds {holding.address}",
            "delete the pod, or ADD it again",
        )
