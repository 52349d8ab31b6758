"""The lab's web servers: one event loop in a thread of its own, sockets in many namespaces.

A listening socket stays in the namespace it was opened in, whoever accepts from it, so one
process serves the EC2 endpoint and the metadata of every node.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from sim.lab.errors import LabError

T = TypeVar("T")

_PATIENCE_S = 30.0
_SHUTDOWN_S = 1.0


class Services:
    """The loop, its thread, and the servers in it; `close` ends all."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._runners: list[web.AppRunner] = []
        self._thread = threading.Thread(target=self._run, name="lab services", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the loop's thread, where all state of the cloud lives."""

        async def run() -> T:
            return function()

        return self.wait_for(run())

    def wait_for(self, awaitable: Awaitable[T]) -> T:
        """Await something in the loop; LabError where it takes longer than half a minute."""

        async def run() -> T:
            return await awaitable

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result(_PATIENCE_S)
        except TimeoutError as error:
            future.cancel()
            raise LabError(f"the lab's services do not answer within {_PATIENCE_S:g} s") from error

    def serve(self, app: web.Application, *sockets: socket.socket) -> None:
        """Serve an application on listening sockets, which belong to the server from now on."""

        async def start() -> None:
            # A request whose client has gone away is cancelled, as nobody waits for its answer.
            runner = web.AppRunner(
                app, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_S
            )
            await runner.setup()
            self._runners.append(runner)
            for listener in sockets:
                await web.SockSite(runner, listener).start()

        try:
            self.wait_for(start())
        except BaseException:
            for listener in sockets:
                listener.close()
            raise

    def serve_path(self, app: web.Application, path: Path) -> None:
        """Serve an application on a Unix socket."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            listener.listen(16)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise LabError(f"cannot listen on {path}: {error}") from error
        self.serve(app, listener)

    def close(self) -> None:
        """End all servers and the loop; a second call does nothing."""
        if self._loop.is_closed():
            return

        async def stop() -> None:
            for runner in self._runners:
                await runner.cleanup()
            self._runners.clear()

        try:
            self.wait_for(stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def echo_app() -> web.Application:
    """Return a server that tells whoever asks which address it is seen under."""

    async def tell(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.remote}\n")

    app = web.Application()
    app.router.add_get("/", tell)
    return app
