"""`FrameDecoder`: any split of a stream, every illegal length, and what it may hold."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signedwire.errors import RemoteProtocolError, SignedWireError
from signedwire.types import Reason
from signedwire.wire.frames import LENGTH_SIZE, FrameDecoder, encode_frame

LIMIT = 64

bodies = st.binary(min_size=1, max_size=LIMIT)
streams = st.lists(bodies, max_size=12)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `places`, which may repeat (an empty piece) or lie outside."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def feed(decoder: FrameDecoder, pieces: list[bytes]) -> list[bytes]:
    return [frame for piece in pieces for frame in decoder.receive_data(piece)]


def error_of(decoder: FrameDecoder) -> RemoteProtocolError:
    assert isinstance(decoder.error, RemoteProtocolError)
    assert isinstance(decoder.error, SignedWireError)
    return decoder.error


def is_silent(decoder: FrameDecoder) -> bool:
    """Whether the decoder ignores all bytes, holds none, and keeps its first error."""
    error = decoder.error
    ignored = decoder.receive_data(encode_frame(b"late")) == []
    decoder.receive_eof()
    return ignored and decoder.error is error and not decoder.has_partial_frame


class TestFrames:
    def test_encode(self) -> None:
        assert encode_frame(b"abc") == b"\0\0\0\3abc"
        assert encode_frame(bytes(2**24 - 1))[:4] == b"\0\xff\xff\xff"
        assert LENGTH_SIZE == 4

    @given(streams, st.lists(st.integers(0, 900)))
    def test_any_split_yields_the_same_frames(self, frames: list[bytes], places: list[int]) -> None:
        decoder = FrameDecoder(LIMIT)
        stream = b"".join(map(encode_frame, frames))
        assert feed(decoder, cut(stream, places)) == frames
        decoder.receive_eof()
        assert decoder.error is None
        assert not decoder.has_partial_frame

    @given(streams)
    def test_byte_by_byte(self, frames: list[bytes]) -> None:
        decoder = FrameDecoder(LIMIT)
        stream = b"".join(map(encode_frame, frames))
        got: list[bytes] = []
        for number in range(len(stream)):
            got += decoder.receive_data(stream[number : number + 1])
            # A frame comes out with its last byte, not later.
            whole = stream[: number + 1]
            assert b"".join(map(encode_frame, got)) == whole or decoder.has_partial_frame
        assert got == frames

    @given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
    @example(b"\0\0\0\1a\1\0\0\0", [])
    def test_any_bytes_mean_the_same_in_any_split(self, data: bytes, places: list[int]) -> None:
        whole, split = FrameDecoder(LIMIT), FrameDecoder(LIMIT)
        for stream in (data, b"\0\0\0" + data):
            whole, split = FrameDecoder(LIMIT), FrameDecoder(LIMIT)
            assert whole.receive_data(stream) == feed(split, cut(stream, places))
            whole.receive_eof()
            split.receive_eof()
            assert str(whole.error) == str(split.error)

    @pytest.mark.parametrize("size", [1, LIMIT - 1, LIMIT])
    def test_legal_lengths(self, size: int) -> None:
        decoder = FrameDecoder(LIMIT)
        assert decoder.receive_data(encode_frame(bytes(size))) == [bytes(size)]

    def test_no_bytes_are_nothing(self) -> None:
        decoder = FrameDecoder(LIMIT)
        assert decoder.receive_data(b"") == []
        decoder.receive_eof()
        assert decoder.error is None
        # And the first byte is still to come.
        decoder.receive_data(b"\x16")
        assert error_of(decoder).reason is Reason.WRONG_PROTOCOL


class TestIllegalLengths:
    @pytest.mark.parametrize("frames", [[], [b"a"], [b"a", bytes(LIMIT), b"c"]])
    @pytest.mark.parametrize("length", [0, LIMIT + 1, 2**24 - 1, 2**32 - 1])
    @pytest.mark.parametrize("is_split", [False, True])
    def test_refused_from_the_header_alone(
        self, frames: list[bytes], length: int, is_split: bool
    ) -> None:
        decoder = FrameDecoder(LIMIT)
        stream = b"".join(map(encode_frame, frames)) + length.to_bytes(4, "big")
        places = list(range(len(stream))) if is_split else []
        assert feed(decoder, cut(stream, places)) == frames
        error = error_of(decoder)
        if not frames and length >= 2**24:
            assert error.reason is Reason.WRONG_PROTOCOL
        else:
            assert error.reason is Reason.ILLEGAL_LENGTH
            assert str(error) == f"a frame of {length} bytes, legal are 1 to {LIMIT}"
        assert is_silent(decoder)

    def test_three_bytes_of_a_length_are_not_judged(self) -> None:
        decoder = FrameDecoder(LIMIT)
        assert decoder.receive_data(b"\0\0\0") == []
        assert decoder.error is None
        assert decoder.has_partial_frame

    @given(streams, bodies, st.lists(st.integers(0, 1200)))
    def test_nothing_after_the_error_is_read(
        self, frames: list[bytes], late: bytes, places: list[int]
    ) -> None:
        decoder = FrameDecoder(LIMIT)
        stream = b"".join(map(encode_frame, frames)) + b"\0\0\0\0" + encode_frame(late)
        assert feed(decoder, cut(stream, places)) == frames
        assert error_of(decoder).reason is Reason.ILLEGAL_LENGTH
        assert is_silent(decoder)


class TestFirstByte:
    def test_any_but_zero_is_refused_at_once(self) -> None:
        for byte in range(1, 256):
            decoder = FrameDecoder(LIMIT)
            assert decoder.receive_data(bytes([byte])) == []
            error = error_of(decoder)
            assert error.reason is Reason.WRONG_PROTOCOL
            assert str(error) == f"the first byte is {byte:#04x}; a v1 frame begins with 0x00"
            assert is_silent(decoder)

    def test_a_tls_client_hello(self) -> None:
        decoder = FrameDecoder(LIMIT)
        assert decoder.receive_data(b"\x16\x03\x01\x02\x00") == []
        assert str(error_of(decoder)) == "the first byte is 0x16; a v1 frame begins with 0x00"

    def test_of_a_later_frame_it_is_part_of_a_length(self) -> None:
        decoder = FrameDecoder(LIMIT)
        assert decoder.receive_data(encode_frame(b"a") + b"\x16") == [b"a"]
        assert decoder.error is None
        decoder.receive_data(b"\x03\x01\x02")
        assert error_of(decoder).reason is Reason.ILLEGAL_LENGTH


class TestEnd:
    @pytest.mark.parametrize("size", range(1, LENGTH_SIZE + 5))
    def test_inside_a_frame(self, size: int) -> None:
        decoder = FrameDecoder(LIMIT)
        assert decoder.receive_data(encode_frame(b"a") + encode_frame(b"bcdef")[:size]) == [b"a"]
        decoder.receive_eof()
        error = error_of(decoder)
        assert error.reason is Reason.TRUNCATED
        assert str(error) == f"the stream ended {size} bytes into a frame"
        assert is_silent(decoder)

    def test_twice(self) -> None:
        decoder = FrameDecoder(LIMIT)
        decoder.receive_eof()
        decoder.receive_eof()
        assert decoder.error is None

    def test_of_nothing_is_fine(self) -> None:
        decoder = FrameDecoder(LIMIT)
        decoder.receive_eof()
        assert decoder.error is None


class TestMemory:
    """`_buffer` holds all bytes of the decoder; its other fields hold none."""

    def test_it_has_no_other_store(self) -> None:
        fields = {name for name, each in vars(FrameDecoder).items() if hasattr(each, "__set__")}
        assert fields - {"has_partial_frame"} == {
            "_buffer",
            "_is_fresh",
            "_max_frame_size",
            "_needed",
            "error",
        }

    @pytest.mark.parametrize("chunk", [1_000, 65_536, 1_000_003])
    def test_a_long_stream_leaves_less_than_a_frame(self, chunk: int) -> None:
        limit = 2048
        decoder = FrameDecoder(limit)
        # 20 MB in frames of every size from 1 to the limit.
        block = b"".join(encode_frame(bytes(size)) for size in range(1, limit + 1))
        stream = memoryview(block * 10)
        most = LENGTH_SIZE + limit - 1
        count = 0
        for start in range(0, len(stream), chunk):
            count += len(decoder.receive_data(bytes(stream[start : start + chunk])))
            assert len(decoder._buffer) <= most
            # A copy of its own, not a view that keeps the chunk alive.
            assert type(decoder._buffer) is bytearray
            assert sys.getsizeof(decoder._buffer) <= most + 64
        assert count == 10 * limit
        assert decoder.error is None

    def test_a_frame_that_never_ends_is_held_up_to_its_length(self) -> None:
        limit = 100_000
        decoder = FrameDecoder(limit)
        decoder.receive_data(limit.to_bytes(4, "big"))
        for _ in range(limit // 100 - 1):
            assert decoder.receive_data(bytes(100)) == []
        assert len(decoder._buffer) == LENGTH_SIZE + limit - 100
        assert decoder.receive_data(bytes(100)) == [bytes(limit)]
        assert decoder._buffer == b""

    def test_after_an_error_nothing_is_held(self) -> None:
        decoder = FrameDecoder(LIMIT)
        decoder.receive_data(encode_frame(b"abc")[:5])
        assert decoder.has_partial_frame
        decoder.receive_data(encode_frame(b"abc")[5:] + b"\xff" * 1_000_000)
        assert error_of(decoder).reason is Reason.ILLEGAL_LENGTH
        assert decoder._buffer == b""
        decoder.receive_data(bytes(1_000_000))
        assert decoder._buffer == b""
