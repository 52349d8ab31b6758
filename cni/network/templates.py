"""Batches encoded once by pyroute2 and patched for each pod.

pyroute2 takes 1.8 ms to encode what one pod needs, three times as long as the kernel takes to
carry it out; the bytes of two pods differ in a few places only. Where those are is not written
down here: a batch is encoded with one value and with another that differs from it in every byte,
and where the two encodings differ, there the value stands.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address

from cni.network.batches import ALL_BATCHES, Batch, Placement
from cni.network.desired import MAIN_TABLE, PodNetwork, host_link_name, table_of
from cni.network.errors import refused
from cni.network.rtnetlink import Replies, RouteSocket

_SHAPES_MAX = 64
"""A runtime may invent interface names; each is a shape of its own."""


@dataclass(frozen=True, slots=True)
class Template:
    """One batch, encoded for some pod, and where each value of another pod goes."""

    encoded: bytes
    places: tuple[tuple[str, slice], ...]
    accepted: tuple[frozenset[int], ...]
    """For each request the kernel's error numbers that are as good as success, 0 among them."""

    def fill(self, values: Mapping[str, bytes]) -> bytearray:
        """Encode the batch for the pod that has these values."""
        filled = bytearray(self.encoded)
        for name, place in self.places:
            filled[place] = values[name]
        return filled


class Templates:
    """Templates by batch and shape, made when first needed. Threads may share one."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Template] = {}

    def prepare(self, link_prefix: str, mtu: int) -> None:
        """Encode what most pods need, so that the first one need not wait for it."""
        some = IPv4Address(0)
        for table in (MAIN_TABLE, table_of(1)):
            pod = PodNetwork(host_link_name(link_prefix, "", ""), "eth0", some, table, mtu)
            for batch in ALL_BATCHES:
                self.template(batch, pod)

    def run(self, kernel: RouteSocket, batch: Batch, placed: Placement, *accepted: int) -> Replies:
        """Carry a batch out for one pod; all answers come back, in the order of its requests.

        Raises NetworkError for the first request that failed otherwise than `accepted` by the
        batch or here.
        """
        template = self.template(batch, placed.pod)
        replies = kernel.exchange(template.fill(placed.values()), len(template.accepted))
        for place, number in enumerate(replies.errors):
            if number not in template.accepted[place] and number not in accepted:
                step = batch(placed)[place].step
                raise refused(step, number, replies.said.get(place, ""))
        return replies

    def template(self, batch: Batch, pod: PodNetwork) -> Template:
        """Return the template of a batch for pods of this one's shape."""
        # What is not patched, or changes the length or the number of requests.
        secondary = pod.table != MAIN_TABLE
        shape = (batch, len(pod.host_link), pod.ifname, pod.mtu, secondary)
        template = self._made.get(shape)
        if template is None:
            if len(self._made) >= _SHAPES_MAX:
                self._made.clear()
            template = self._made[shape] = derive(batch, pod)
        return template


def derive(batch: Batch, pod: PodNetwork) -> Template:
    """Encode a batch for pods of this one's shape and find where each value stands in it."""
    some, other = _stand_in(pod, 0x11), _stand_in(pod, 0x22)
    requests = batch(some)
    encoded = b"".join(request.data for request in requests)
    places = []
    for name, value in some.values().items():
        changed = b"".join(request.data for request in batch(_with(some, other, name)))
        for place in _differences(encoded, changed):
            # Else a value is written in some other way than `values` writes it.
            assert encoded[place] == value, (batch, name)
            places.append((name, place))
    accepted = tuple(frozenset({0, *request.accepted}) for request in requests)
    return Template(encoded, tuple(places), accepted)


def _stand_in(pod: PodNetwork, byte: int) -> Placement:
    """Make up a pod of the same shape, every byte of whose values is as given."""
    number = int.from_bytes(bytes([byte]) * 4, "little")
    secondary = pod.table != MAIN_TABLE
    return Placement(
        replace(
            pod,
            host_link=chr(byte + 0x40) * len(pod.host_link),
            address=IPv4Address(number),
            table=byte if secondary else MAIN_TABLE,
        ),
        number,
        bytes([byte]) * 6,
        bytes([byte]) * 6,
        number,
        number,
    )


def _with(some: Placement, other: Placement, name: str) -> Placement:
    """Take one value of another stand-in."""
    if name in {field.name for field in fields(Placement)}:
        return replace(some, **{name: getattr(other, name)})
    return replace(some, pod=replace(some.pod, **{name: getattr(other.pod, name)}))


def _differences(one: bytes, two: bytes) -> Iterator[slice]:
    """Find the runs of bytes in which two encodings differ."""
    assert len(one) == len(two), "stand-ins of one shape are encoded alike"
    start = None
    for at, (left, right) in enumerate(zip(one + b"\0", two + b"\0", strict=True)):
        if left != right and start is None:
            start = at
        elif left == right and start is not None:
            yield slice(start, at)
            start = None
