"""Where random numbers come from: named streams, so that settings can be compared fairly.

Two runs with one seed and different settings must meet the same pods, the same latencies and
the same delays, or the difference between them is partly luck (common random numbers). So
every purpose has a stream of its own, derived from the seed and from names; nothing is derived
from `hash()`, which differs from process to process.
"""

import hashlib
import random

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _digest(seed: int, names: tuple[str, ...]) -> int:
    """Mix seed and names into 64 bits; the lengths keep ("a", "b") apart from ("ab",)."""
    text = "".join(f"{len(name)}:{name}" for name in (str(seed), *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def stream(seed: int, *names: str) -> random.Random:
    """Return the generator of one purpose: equal arguments, equal numbers, on every machine.

    >>> stream(1, "placement").random() == stream(1, "placement").random()
    True
    """
    return random.Random(_digest(seed, names))


class Draws:
    """Numbered draws for one node: the n-th draw of a name depends on seed, names and n alone.

    A `random.Random` for every node and EC2 call would cost 2.5 kB each, and one for the whole
    node would let one call more of one API shift the latencies of all others. Here a name
    costs one integer, and names do not know of each other. The generator is SplitMix64
    (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """

    __slots__ = ("_names", "_seed", "_states")

    def __init__(self, seed: int, *names: str) -> None:
        """Derive from the seed and the names of whoever draws, such as the node's."""
        self._seed = seed
        self._names = names
        self._states: dict[str, int] = {}

    def uniform(self, name: str) -> float:
        """Return the next number of this name, uniform in the open interval (0, 1)."""
        state = self._states.get(name)
        if state is None:
            state = _digest(self._seed, (*self._names, name))
        state = (state + _GOLDEN) & _MASK
        self._states[name] = state
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
        # 52 bits and a half: neither 0 nor 1 can come out, so quantile functions stay finite.
        return ((mixed >> 12) + 0.5) * 2.0**-52

    def once(self, name: str) -> float:
        """Return the first number of a name that is drawn from once, and forget the name."""
        return ((_digest(self._seed, (*self._names, name)) >> 12) + 0.5) * 2.0**-52
