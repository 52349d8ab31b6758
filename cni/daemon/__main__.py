"""L-IPAMD: start, signals, exit codes.

`aws-k8s-agent` runs the daemon, `aws-k8s-agent install` what the init container does.
Exit 0 after SIGTERM, 1 where the daemon cannot start (one line says why), 2 for settings that
make no sense.
"""

import asyncio
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import structlog

from cni.daemon import install
from cni.daemon.agent import Agent, Machine, StartError
from cni.daemon.clock import LoopClock
from cni.daemon.logs import close, libraries_heard, logger
from cni.settings import Settings, SettingsError, parse

METADATA = "http://169.254.169.254"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def main(reached: Callable[[str], None] = lambda _step: None) -> None:
    """Run the daemon until it is told to stop; `reached` hears the names of steps, for tests."""
    if sys.argv[1:2] == ["install"]:
        sys.exit(install.main(os.environ, sys.argv[2:]))
    try:
        settings = parse(os.environ, lenient=False)
    except SettingsError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"aws-k8s-agent: {line}\n")
        sys.exit(2)
    raise_descriptor_limit()
    machine = Machine(
        clock=LoopClock(),
        unix_now=time.time,
        version=version("warmbench"),
        boot_id=BOOT_ID.read_text(encoding="ascii").strip(),
        # The SDK's own variable, so that one setting leads both to the same place.
        metadata_endpoint=os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA,
        rng=random.Random(os.urandom(16)),  # noqa: S311 - jitter, and names that nobody guesses at
        reached=reached,
    )
    log = logger(settings, time.time)
    try:
        with libraries_heard(log):
            code = asyncio.run(run(settings, machine, log))
    finally:
        close(log)
    sys.exit(code)


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as may be: an ADD needs two, and container runtimes allow 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def run(settings: Settings, machine: Machine, log: structlog.stdlib.BoundLogger) -> int:
    """Start, wait for SIGTERM or SIGINT, stop; return the exit code."""
    agent = Agent(settings, machine, log)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        start = loop.create_task(agent.start())
        stop = loop.create_task(stopping.wait())
        await asyncio.wait({start, stop}, return_when="FIRST_COMPLETED")
        if not start.done():
            start.cancel()
        await asyncio.gather(start, return_exceptions=False)
        await stop
    except StartError as error:
        sys.stderr.write(f"aws-k8s-agent: {error}\n")
        return 1
    except asyncio.CancelledError:
        return 0
    finally:
        await agent.stop()
    return 0


if __name__ == "__main__":
    main()
