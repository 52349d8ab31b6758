"""How often Python looks for garbage while a run goes on.

A run keeps nearly all it makes: each node's addresses until the end, each pod's record for ever.
Python's collector knows nothing of that, and walks over the whole fleet again and again: with
10,000 nodes this was half of a run's time. What a run drops goes at once, by counting references;
only failed calls leave rings behind, few enough to wait. The run itself is one ring, of kubelet,
nodes and events: it is looked for once, when it is over, or the next run would lie beside it.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 100_000
"""Objects made, less those dropped, before the youngest are looked through; Python's own: 700."""

ROUNDS = (20, 100)
"""Looks at the youngest for one at the middle generation, and of these for one at all."""


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Look for garbage seldom within the context, and once behind it where there may be much.

    It concerns the whole process: where several threads run, the last to leave sets it back.
    """
    before = gc.get_threshold()
    if not gc.isenabled() or not before[0] or before[0] >= YOUNG:
        yield  # Somebody else looks after it.
        return
    gc.set_threshold(YOUNG, *ROUNDS)
    try:
        yield
    finally:
        # A small run is not worth a look at all modules, which takes longer than it did.
        large = any(gc.get_count()[1:])
        gc.set_threshold(*before)
        if large:
            gc.collect()
