"""The frame between plug-in and daemon: what goes in comes out, and nothing else is taken."""

from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cni import wire

T = TypeVar("T")
NAMES = st.binary(max_size=20).map(lambda name: b"CNI_" + name)
VARIABLES = st.dictionaries(NAMES, st.binary(max_size=50), max_size=wire.VARIABLES_MAX)


def body_of(frame: bytes) -> bytes:
    """Return what follows the header."""
    return frame[wire.HEADER_BYTES :]


def or_sentence(decode: Callable[[bytes], T], taken: bytes) -> T | str:
    """Return what is decoded, or the one line that says why not; all else is a failure."""
    try:
        return decode(taken)
    except ValueError as error:
        sentence = str(error)
    assert sentence
    assert "\n" not in sentence
    return sentence


@given(VARIABLES, st.binary())
def test_a_request_comes_out_as_it_went_in(variables: dict[bytes, bytes], stdin: bytes) -> None:
    """Names, values, their order and standard input survive, whatever bytes they hold."""
    frame = wire.encode_request(variables, stdin)

    assert wire.request_length(frame[: wire.HEADER_BYTES]) == len(body_of(frame))
    decoded, read = wire.decode_request(body_of(frame))
    assert list(decoded.items()) == list(variables.items())
    assert read == stdin


@given(st.integers(0, 255), st.binary())
def test_a_reply_comes_out_as_it_went_in(code: int, stdout: bytes) -> None:
    """Exit code and output survive."""
    frame = wire.encode_reply(code, stdout)

    assert wire.reply_length(frame[: wire.HEADER_BYTES]) == len(body_of(frame))
    assert wire.decode_reply(body_of(frame)) == (code, stdout)


@given(st.binary(max_size=400))
@example(b"\0\0\0\1\0\0\0\4CNI_\0\0\0\0\0\0\0\0")
@example(b"\xff\xff\xff\xff")
def test_any_bytes_are_a_request_or_one_sentence(body: bytes) -> None:
    """A body is decoded and encodes back to itself, or it is refused on one line."""
    decoded = or_sentence(wire.decode_request, body)

    assert isinstance(decoded, str) or body_of(wire.encode_request(*decoded)) == body


@given(VARIABLES, st.binary(max_size=50), st.data())
def test_a_damaged_request_is_a_request_or_one_sentence(
    variables: dict[bytes, bytes], stdin: bytes, data: st.DataObject
) -> None:
    """One byte changed anywhere in a good body never ends in another exception."""
    body = bytearray(body_of(wire.encode_request(variables, stdin)))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    or_sentence(wire.decode_request, bytes(body))


@given(VARIABLES, st.binary(max_size=50), st.data())
def test_a_request_cut_short_or_followed_by_more_is_refused(
    variables: dict[bytes, bytes], stdin: bytes, data: st.DataObject
) -> None:
    """Every length is told, so that no part can be taken for the whole."""
    body = body_of(wire.encode_request(variables, stdin))
    cut = data.draw(st.integers(0, len(body) - 1))

    with pytest.raises(ValueError, match="ends"):
        wire.decode_request(body[:cut])
    with pytest.raises(ValueError, match="follow the end"):
        wire.decode_request(body + b"\0")


@given(st.binary(max_size=20))
def test_any_header_is_a_length_or_one_sentence(header: bytes) -> None:
    """Whatever a peer sends first, the answer is a bounded length or a refusal."""
    for length in (wire.request_length, wire.reply_length):
        told = or_sentence(length, header)
        assert isinstance(told, str) or 0 <= told <= wire.REQUEST_BYTES_MAX


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (b"", "12 bytes, not 0"),
        (b"GET / HTTP/1", "begins with"),
        (b"CNI!\0\0\0\1\0\0\0\0", "begins with"),
        (b"CNI?\0\0\0\2\0\0\0\0", "one release"),
        (b"CNI?\0\0\0\1\0\x10\0\1", "at most 1048576 bytes"),
        (b"CNI?\0\0\0\1\0\0\0\0\0", "12 bytes, not 13"),
    ],
)
def test_a_wrong_header_says_what_is_wrong(header: bytes, sentence: str) -> None:
    """Each part of a header has a refusal of its own."""
    with pytest.raises(ValueError, match=sentence):
        wire.request_length(header)


def body(count: int, *texts: bytes) -> bytes:
    """Return a body of these texts, which claims so many variables."""
    parts = [len(text).to_bytes(4, "big") + text for text in texts]
    return count.to_bytes(4, "big") + b"".join(parts)


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (body(2, b"CNI_A", b"", b"CNI_A", b"", b""), "sent twice"),
        (body(1, b"LD_PRELOAD", b"x", b""), "begins with CNI_"),
        (body(1, b"", b"x", b""), "begins with CNI_"),
        (body(65, b""), "at most 64 variables"),
        (body(1, b"CNI_A", b""), "ends within a number"),
        (bytes(wire.REQUEST_BYTES_MAX + 1), "at most 1048576 bytes"),
    ],
)
def test_a_wrong_body_says_what_is_wrong(refused: bytes, sentence: str) -> None:
    """Each rule of the body has a refusal of its own."""
    with pytest.raises(ValueError, match=sentence):
        wire.decode_request(refused)


def test_what_could_not_be_decoded_is_not_encoded() -> None:
    """The limits hold on both sides."""
    with pytest.raises(ValueError, match="at most 1048576 bytes"):
        wire.encode_request({}, bytes(wire.REQUEST_BYTES_MAX))
    with pytest.raises(ValueError, match="at most 64"):
        wire.encode_request({b"CNI_%d" % n: b"" for n in range(65)}, b"")
    with pytest.raises(ValueError, match="begins with CNI_"):
        wire.encode_request({b"PATH": b""}, b"")
    with pytest.raises(ValueError, match="exit code"):
        wire.encode_reply(256, b"")
    with pytest.raises(ValueError, match="at most 1048576 bytes"):
        wire.encode_reply(0, bytes(wire.REPLY_BYTES_MAX))
    with pytest.raises(ValueError, match="1 to 1048576 bytes"):
        wire.decode_reply(b"")
