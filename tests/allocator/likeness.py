"""Whether two allocators are alike in every field, down to the last address.

It walks all that hangs on them by itself, knowing no field by name, so that what a snapshot leaves
out cannot hide.
"""

from collections import deque
from types import MethodType
from typing import Any

from cni.allocator.allocator import Allocator
from cni.allocator.ticking import Ticking

OF_ALLOCATOR = ("_pool", "_planner", "_waiting", "dropped")
"""The fields of an allocator, without those of its journal."""


def difference_of(one: Allocator, other: Allocator) -> str | None:
    """Return where two allocators differ, whether or not they have a journal."""
    return difference(
        {name: getattr(one, name) for name in OF_ALLOCATOR},
        {name: getattr(other, name) for name in OF_ALLOCATOR},
    )


def fields_of(value: object) -> dict[str, Any]:
    """Return the fields of one of our objects, slots and others."""
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})


def difference(one: object, other: object) -> str | None:
    """Return the first path at which two objects differ, or None where they are alike."""
    twins: dict[int, int] = {}
    waiting: list[tuple[str, Any, Any]] = [("", one, other)]
    while waiting:
        path, a, b = waiting.pop()
        if isinstance(a, MethodType):
            if a.__func__ is not b.__func__:
                return f"{path}: {a} is not {b}"
            continue
        parts = _parts(a)
        if parts is None:
            if type(a) is not type(b) or a != b:
                return f"{path}: {a!r} is not {b!r}"
            continue
        if id(a) in twins:
            if twins[id(a)] != id(b):
                return f"{path}: another object"
            continue
        others = _parts(b)
        if others is None or parts.keys() != others.keys() or list(parts) != list(others):
            return f"{path}: {list(parts)} is not {list(others or ())}"
        twins[id(a)] = id(b)
        waiting += [(f"{path}.{name}", part, others[name]) for name, part in parts.items()]
    return None


def _parts(value: Any) -> dict[Any, Any] | None:
    """Return what a value is made of, in order; None where it is to be compared as a whole."""
    if isinstance(value, list | deque):
        return dict(enumerate(value))
    if isinstance(value, dict):
        return value
    if not type(value).__module__.startswith("cni.allocator") or value.__hash__ is None:
        return None
    if type(value).__eq__ is not object.__eq__:
        return None
    parts = fields_of(value)
    if isinstance(value, Ticking):
        # What vanished is passed over when its turn comes, and is not kept.
        enis = value.pool.enis
        parts["_ring"] = [eni for eni in value._ring if enis.get(eni.eni_id) is eni]
    return parts
