"""Builds every part of the daemon and hands each what it needs: the only wiring.

Start: settings, identity and attached ENIs, ledger, kernel, tombstones, then the socket, one
refill, and at last the config file by which the runtime learns that the node has a network.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

import instance_limits
from cni.allocator.actions import FailureReason
from cni.allocator.behaviour import PRESETS
from cni.allocator.journal import Journaled, Start
from cni.allocator.model import AttachedEni, BlockKind, NodeLimits
from cni.cloud.calls import CallError
from cni.cloud.described import DescribedEni
from cni.cloud.ec2 import Ec2, Timing
from cni.cloud.identity import Identity
from cni.cloud.imds import Imds
from cni.cloud.options import ec2_options
from cni.cloud.tags import INSTANCE_ID, missing_tags
from cni.daemon import comparison, install, recovery, vanished
from cni.daemon.action_watch import ActionWatch
from cni.daemon.clock import Clock
from cni.daemon.commands import Commands
from cni.daemon.endless import endlessly
from cni.daemon.enis import NodeEnis
from cni.daemon.health import (
    EVENT_LOOP,
    FIRST_REFILL,
    NETLINK,
    PARTS,
    SERVER,
    HealthBook,
)
from cni.daemon.holdings import Recovered
from cni.daemon.host_keeper import HostKeeper
from cni.daemon.introspection import serve_introspection, serve_metrics
from cni.daemon.journal_file import JournalFile
from cni.daemon.leaks import LeakSweep, SweepReport
from cni.daemon.ledger import Ledger, LedgerError
from cni.daemon.listening import ListenError, Listening
from cni.daemon.maintainer import Maintainer, Manner
from cni.daemon.metrics import Metrics
from cni.daemon.netlink_thread import NetlinkThread
from cni.daemon.node_cloud import NodeCloud
from cni.daemon.node_looks import Node, NodeLooks
from cni.daemon.sandboxes import Sandboxes, Terms
from cni.daemon.server import Server
from cni.daemon.takeover import objection
from cni.daemon.watched_ledger import WatchedLedger
from cni.network.desired import HostNetwork, host_network, network_options
from cni.network.netlink import Kernel, NetworkError
from cni.settings import Settings, effective

STOP_PATIENCE_S = 20.0
"""How long SIGTERM waits for what is in flight: below the grace period of the manifest."""

BEAT_S = 5.0

START_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)
"""Pauses between attempts to learn from EC2 what the node has, halved or half as long again."""

_PASSING = (FailureReason.THROTTLED, FailureReason.UNKNOWN_OUTCOME)

Answer = TypeVar("Answer")

FIRST_REFILL_S = 60.0
"""How long the config file waits for the first refill: a throttled EC2 must not keep a node out."""


class StartError(Exception):
    """The daemon cannot start; one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the daemon takes from the machine it runs on, so that tests can give it another."""

    clock: Clock
    unix_now: Callable[[], float]
    boot_id: str
    version: str
    metadata_endpoint: str
    rng: random.Random
    reached: Callable[[str], None] = lambda _step: None


class Agent:
    """The daemon of one node; `start`, then `stop`."""

    def __init__(
        self, settings: Settings, machine: Machine, log: structlog.stdlib.BoundLogger
    ) -> None:
        """Hold what `start` needs; nothing is touched yet."""
        self._settings = settings
        self._machine = machine
        self._log = log
        self._state = Path(settings.other["WARMBENCH_STATE_DIR"])
        self._options = network_options(settings.other)
        self._behaviour = PRESETS[settings.other["WARMBENCH_BEHAVIOUR"]]
        self._background: set[asyncio.Task[None]] = set()
        self._listening: list[Listening] = []
        clock = machine.clock
        self.metrics = Metrics(clock.now, version=machine.version)
        self.health = HealthBook(PARTS, clock.now())
        self.looks = NodeLooks(clock, self.health, settings)

    # Start.

    async def start(self) -> None:
        """Come up to where the runtime is told; StartError where that cannot be."""
        started = self._machine.clock.now()
        self._tell_settings()
        await self._serve_probes()
        try:
            self._state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"{self._state}: {error.strerror}; see WARMBENCH_STATE_DIR") from error
        try:
            self._imds = Imds(
                sleep=self._machine.clock.sleep,
                endpoint=self._machine.metadata_endpoint,
                on_failure=self.metrics.metadata_failed,
            )
            self._ec2_options = ec2_options(self._settings.other)
        except ValueError as error:
            raise StartError(str(error)) from error
        for warning in self._ec2_options.warnings:
            self._log.warning("settings", warning=warning)
        identity = await self._identity()
        self._log = self._log.bind(instance=identity.instance_id)
        self._netlink = NetlinkThread(self._kernel)
        # A thread of its own: waiting for a new ENI's link must not hold pods up.
        self._eni_netlink = NetlinkThread(self._kernel)
        await self._refuse_upstreams_pods()
        recovered = self._open_ledger()
        clock = self._machine.clock
        self._ec2 = Ec2.connect(
            identity,
            self._ec2_options,
            Timing(clock.now, clock.sleep, self._machine.unix_now, self._machine.rng.random),
            on_call=self.metrics.api_call,
        )
        await self._set_node_up(identity, recovered)
        await self._serve()
        self.metrics.started(self._machine.clock.now() - started, success=True)

    async def _set_node_up(self, identity: Identity, recovered: Recovered) -> None:
        started = self._machine.clock.now()
        await self._set_host_up(identity)
        await self._build(identity, recovered)
        self.metrics.node_set_up(self._machine.clock.now() - started, success=True)

    def _kernel(self) -> Kernel:
        return Kernel(self._options, sysctl_root=str(install.sysctl_root()))

    async def _serve_probes(self) -> None:
        """Serve metrics and health from the first moment: a slow start is no dead daemon."""
        other = self._settings.other
        exposition = None if other["DISABLE_METRICS"] == "true" else self.metrics.exposition
        address = other["WARMBENCH_METRICS_BIND_ADDRESS"]
        try:
            served = await serve_metrics(self.looks, exposition, address, self._log)
        except ListenError as error:
            raise StartError(str(error)) from error
        self._listening.append(served)
        self._in_background(self._beat, "heartbeat")

    def _tell_settings(self) -> None:
        for warning in self._settings.warnings:
            self._log.warning("settings", warning=warning)
        self._log.info("settings", **effective(self._settings), **self._settings.other)

    async def _identity(self) -> Identity:
        try:
            return await self._imds.identity()
        except CallError as error:
            raise StartError(
                f"the instance metadata does not answer: {error}; the daemon needs IMDSv2 with a"
                " hop limit that reaches it"
            ) from error

    async def _refuse_upstreams_pods(self) -> None:
        path = Path(self._settings.other["AWS_VPC_K8S_CNI_BACKING_STORE"])
        if not await asyncio.to_thread(path.exists):
            return
        links = await self._netlink.do(lambda kernel: kernel.host_links())
        why = await asyncio.to_thread(objection, path, links, self._options.link_prefix)
        if why:
            raise StartError(why)

    def _open_ledger(self) -> Recovered:
        try:
            self._ledger, recovered = Ledger.open(
                self._state / "ledger.jsonl",
                boot_id=self._machine.boot_id,
                now_unix=self._machine.unix_now(),
            )
        except LedgerError as error:
            raise StartError(str(error)) from error
        for problem in recovered.problems:
            self._log.warning("ledger", problem=problem)
        self._books = WatchedLedger(
            self._ledger, self.health, self._machine.clock.now, self.metrics.ledger_synced
        )
        return recovered

    async def _set_host_up(self, identity: Identity) -> None:
        self._host = HostKeeper(
            self._host_of,
            self._imds.identity,
            self._eni_netlink,
            self._machine.clock,
            self.metrics,
            self._log,
        )
        try:
            await self._host.install(identity)
        except (NetworkError, ValueError) as error:
            raise StartError(f"the host's network cannot be set up: {error}") from error

    def _host_of(self, identity: Identity) -> HostNetwork:
        return host_network(identity.mac, identity.private_ip, identity.vpc_cidrs, self._options)

    async def _build(self, identity: Identity, recovered: Recovered) -> None:
        """Make the allocator from what is there, and everything that hangs on it."""
        machine, log = self._machine, self._log
        try:
            shown = await self._patiently(self._ec2.managed_enis)
            limits = await self._patiently(lambda: self._limits(identity))
            await self._patiently(lambda: self._delete_orphans(identity))
        except CallError as error:
            raise StartError(
                f"EC2 does not tell what this node has: {error}; check the node's role"
                " (deploy/iam-policy.json) and its way to the EC2 endpoint"
            ) from error
        self.enis = NodeEnis(self._imds.enis, self._eni_netlink, self._options, log)
        attached = await self._take_in(shown.managed, recovered)
        self._journal = JournalFile(
            self._state / "journal",
            int(self._settings.other["WARMBENCH_JOURNAL_MIB"]) << 20,
            unix=machine.unix_now,
            tell=lambda problem: log.warning("journal", problem=problem),
        )
        self._taken = shown.taken
        self._cloud = NodeCloud(self._ec2, self._imds, identity.subnet_id, shown.managed)
        start = self._start_of(attached, shown.taken, limits, recovered)
        self.allocator = Journaled(start, self._journal.write)
        self._journal.snapshot_by(self.allocator.snapshot)
        self._wire(identity)
        self.looks.node = Node(
            self.allocator, self.sandboxes, self.maintainer, self._cloud, limits, len(shown.taken)
        )
        self.metrics.watch_pool(self.looks.pool)
        await recovery.restore(
            recovered.holdings, self.allocator, self.sandboxes, self._books, machine.unix_now, log
        )
        self.metrics.not_recovered(len(self.allocator.dropped))
        await recovery.clear_strays(self.sandboxes, self._netlink, self.enis.installed, log)

    async def _patiently(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask EC2 again while it throttles or is silent: nodes that start together meet both."""
        for pause in START_PAUSES_S:
            try:
                return await ask()
            except CallError as error:
                if error.reason not in _PASSING:
                    raise
                self._log.warning("EC2 is asked again", error=str(error), after_s=pause)
            await self._machine.clock.sleep(pause * (0.5 + self._machine.rng.random()))
        return await ask()

    def _start_of(
        self,
        attached: list[AttachedEni],
        taken: frozenset[int],
        limits: NodeLimits,
        recovered: Recovered,
    ) -> Start:
        """Return what the allocator is made from: what EC2 shows and what the ledger says."""
        settings, machine = self._settings, self._machine
        now, unix_now = machine.clock.now(), machine.unix_now()
        cooldown_s = settings.ip_cooldown_period_s
        return Start(
            target=settings.target,
            limits=limits,
            kind=settings.kind,
            behaviour=self._behaviour,
            now=now,
            attached=tuple(attached),
            taken=tuple(sorted(taken)),
            assignments=recovery.assignments_of(recovered.holdings, now, unix_now),
            cooldown_s=cooldown_s,
            cooling=recovery.cooling_of(recovered.cooling, now, unix_now, cooldown_s),
            seed=machine.rng.getrandbits(32),
        )

    def _wire(self, identity: Identity) -> None:
        """Make what serves sandboxes and what keeps the pool."""
        machine, log = self._machine, self._log
        terms = Terms(
            self._options, float(self._settings.other["WARMBENCH_ADD_WAIT"]), machine.reached
        )
        self.sandboxes = Sandboxes(
            self.allocator,
            self._books,
            self._netlink,
            machine.clock,
            machine.unix_now,
            terms,
            self._poke,
            self.metrics,
            log,
        )
        self.maintainer = Maintainer(
            self.allocator,
            self._cloud,
            self.enis,
            machine.clock,
            Manner(
                self._settings.kind,
                self._behaviour,
                f"{identity.instance_id}-{machine.rng.getrandbits(64):016x}",
                machine.rng.random,
                machine.reached,
            ),
            self.sandboxes.served,
            ActionWatch(self.metrics, self.health, machine.clock.now),
            log,
        )

    async def _take_in(
        self, enis: tuple[DescribedEni, ...], recovered: Recovered
    ) -> list[AttachedEni]:
        """Set up the ENIs that are there, with our tags; what cannot be used yet is left out."""
        shown = [described.interface.eni for described in enis]
        lived_on = {holding.eni_id for holding in recovered.holdings}
        sleep = self._machine.clock.sleep
        try:
            attached = await recovery.set_up(shown, lived_on, self.enis, sleep, self._log)
        except recovery.NotSetUp as error:
            raise StartError(str(error)) from error
        usable = {eni.eni_id for eni in attached}
        for described in enis:
            missing = missing_tags(described.tags, self._ec2.wanted_tags)
            if not missing or described.eni_id not in usable:
                continue
            try:
                await self._ec2.tag_eni(described.eni_id, missing)
            except CallError as error:
                self._log.warning("ENI without our tags", eni=described.eni_id, error=str(error))
        return attached

    async def _delete_orphans(self, identity: Identity) -> None:
        """Delete what an earlier life of this daemon created and did not attach.

        The ledger's lock says that nobody else creates ENIs for this instance, so no age counts.
        """
        for eni in await self._ec2.leaked_candidates():
            if eni.tags.get(INSTANCE_ID) == identity.instance_id:
                self._log.warning("deleting an ENI of an earlier life", eni=eni.eni_id)
                with suppress(CallError):  # The sweep for leaked ENIs comes by later.
                    await self._ec2.delete_eni(eni.eni_id)

    def _poke(self) -> None:
        self.maintainer.poke()

    async def _limits(self, identity: Identity) -> NodeLimits:
        """Return what the instance type allows, from the table or else from EC2."""
        settings = self._settings
        try:
            limits = instance_limits.get(identity.instance_type)
            enis, per_eni, vcpus = limits.enis, limits.ipv4_per_eni, limits.vcpus or 0
        except instance_limits.UnknownInstanceType:
            described = await self._ec2.describe_instance_type(identity.instance_type)
            enis, per_eni, vcpus = described.enis, described.ipv4_per_eni, 0
            self._log.info("limits from EC2", type=identity.instance_type, enis=enis)
        enis = min(enis, settings.max_eni or enis)
        addresses = enis * (per_eni - 1) * settings.kind.addresses
        prefix_mode = settings.kind is BlockKind.PREFIX
        pods = int(settings.other["WARMBENCH_MAX_PODS"]) or instance_limits.max_pods(
            addresses, vcpus, prefix_mode=prefix_mode
        )
        return NodeLimits(enis, per_eni - 1, pods)

    async def _serve(self) -> None:
        """Open the socket, refill once, tell the runtime, and begin what runs in the background."""
        commands = Commands(self.sandboxes, self._log)
        tombstones = self._state / "tombstones"
        await recovery.bury(tombstones, commands, self._log)
        self.server = Server(self._state / "cni.sock", commands.answer, commands.unheard, self._log)
        try:
            self.server.start()
        except OSError as error:
            raise StartError(f"{self._state}/cni.sock: {error.strerror}") from error
        await self._look_around()
        # A plug-in that found no socket until now may have left one more.
        await recovery.bury(tombstones, commands, self._log)
        self.maintainer.poke()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.maintainer.idle.wait(), FIRST_REFILL_S)
        self.health.ok(FIRST_REFILL, self._machine.clock.now())
        self._tell_runtime()
        self._in_background(self._host.keep, "host network")
        self._in_background(self._compare, "comparison with the metadata")
        self._in_background(
            lambda: vanished.watch(self.sandboxes, self._netlink, self._machine.clock, self._log),
            "vanished links",
        )
        await self._serve_introspection()
        if self._settings.other["DISABLE_LEAKED_ENI_CLEANUP"] != "true":
            self._in_background(self._sweep, "sweep for leaked ENIs")
        counts = self.allocator.counts(self._machine.clock.now())
        self._log.info(
            "serving", addresses=counts.addresses_total, assigned=counts.assigned, enis=counts.enis
        )

    async def _compare(self) -> None:
        await comparison.watch(
            self.allocator,
            self._imds.enis,
            self._taken,
            self._poke,
            self._machine.clock,
            self._behaviour.reconcile_s,
            self._log,
        )

    async def _serve_introspection(self) -> None:
        other = self._settings.other
        if other["DISABLE_INTROSPECTION"] == "true":
            return
        address = other["INTROSPECTION_BIND_ADDRESS"]
        try:
            self._listening.append(await serve_introspection(self.looks, address, self._log))
        except ListenError as error:
            raise StartError(str(error)) from error

    async def _sweep(self) -> None:
        clock = self._machine.clock
        sweep = LeakSweep(
            self._ec2,
            self._ec2_options.cluster_name,
            unix=self._machine.unix_now,
            sleep=clock.sleep,
            uniform=self._machine.rng.random,
            report=self._swept,
        )
        await sweep.run()

    def _swept(self, report: SweepReport) -> None:
        for problem in report.problems:
            self._log.warning("sweep for leaked ENIs", problem=problem)
        self._log.info("sweep for leaked ENIs", deleted=report.deleted)

    async def _beat(self) -> None:
        """Show that the loop turns, that the kernel answers, and that plug-ins find the socket."""
        clock = self._machine.clock
        while True:
            self.health.ok(EVENT_LOOP, clock.now())
            if hasattr(self, "server"):
                await self._look_around()
            await clock.sleep(BEAT_S)

    async def _look_around(self) -> None:
        clock = self._machine.clock
        try:
            await self._netlink.do(Kernel.host_links)
            self.health.ok(NETLINK, clock.now())
        except NetworkError as error:
            self.health.failing(NETLINK, str(error), clock.now())
        if (self._state / "cni.sock").is_socket():
            self.health.ok(SERVER, clock.now())
        else:
            self.health.failing(SERVER, "somebody removed it", clock.now())

    def _tell_runtime(self) -> None:
        """Write the configuration by which the runtime learns that the node has a network."""
        directory = Path(self._settings.other["HOST_CNI_CONFDIR_PATH"])
        try:
            for name in install.shadowing(directory):
                self._log.warning("the runtime takes this configuration before ours", file=name)
            install.install_conflist(directory, install.conflist(self._settings.other))
        except install.InstallError as error:
            raise StartError(str(error)) from error

    def _in_background(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run something for as long as the daemon lives."""
        whole = endlessly(work, name, self._machine.clock.sleep, self._log)
        task = asyncio.get_running_loop().create_task(whole, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Stop.

    async def stop(self) -> None:
        """Finish what is in flight and leave the pods working; safe after a failed start."""
        for task in list(self._background):
            task.cancel()
        if hasattr(self, "server"):
            self.sandboxes.stop()
            await self.server.stop(STOP_PATIENCE_S)
            await self.maintainer.stop(STOP_PATIENCE_S)
        for listening in self._listening:
            await listening.stop()
        if hasattr(self, "_ec2"):
            self._ec2.close()
        if hasattr(self, "_journal"):
            self._journal.close()
        if hasattr(self, "_ledger"):
            await self._ledger.close()
        if hasattr(self, "_netlink"):
            await self._netlink.close()
            await self._eni_netlink.close()
