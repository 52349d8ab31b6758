"""The thread that deletes host links nobody needs, so that no DEL waits for it.

Deleting a veth waits about 30 ms for RCU and holds the lock that every ADD needs; a whole group
costs no more than one. So links are only marked, by IFLA_GROUP, and the reaper deletes the group
when some time has passed: by then most have gone with their namespace. The mark is in the
kernel, so it survives the daemon.
"""

import threading

from cni.network import messages
from cni.network.errors import NetworkError
from cni.network.netns import route_socket
from cni.network.rtnetlink import RouteSocket

GATHER_S = 0.5
"""How long links gather before they are deleted together."""

_JOIN_S = 5.0


class Reaper:
    """Starts with the first link; lives in the namespace of the thread that made it."""

    def __init__(self) -> None:
        # A socket stays in the namespace it was opened in, whoever uses it.
        self._kernel = RouteSocket(route_socket())
        self._marked = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: NetworkError | None = None
        """Why the last attempt failed, None if it did not."""

    def wake(self) -> None:
        """Tell that a link was marked."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="link-reaper", daemon=True)
            self._thread.start()
        self._marked.set()

    def close(self) -> None:
        """Delete what is marked, and end; the kernel may take its time, but not for ever."""
        self._closing.set()
        self._marked.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                # The socket stays open for it; the next daemon finds the marks.
                return
        self._kernel.close()

    def _work(self) -> None:
        while True:
            self._marked.wait()
            ending = self._closing.wait(GATHER_S)
            # Cleared before the deletion: a mark set from here on is seen by the next round.
            self._marked.clear()
            try:
                self._kernel.run([messages.delete_going_links()])
                self.failure = None
            except NetworkError as error:
                self.failure = error
            if ending:
                return
