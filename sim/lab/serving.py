"""An application on a local port, for as long as a `with` block lasts."""

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

SHUTDOWN_S = 1.0


@contextlib.asynccontextmanager
async def serving(
    app: web.Application, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve an application and yield its URL; port 0 is any free one.

    A request whose client goes away is cancelled. Raises OSError where the address is taken.
    """
    # Without a limit of its own, closing would wait a minute for requests that get no answer.
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0]
        yield f"http://{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()
