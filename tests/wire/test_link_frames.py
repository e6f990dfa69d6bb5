"""The frames of a v2 link: every layout, every range, and any cut of the stream."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signedwire.errors import RemoteProtocolError
from signedwire.types import Credit, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.clock_offset import Stamp
from signedwire.wire.link_frames import (
    Close,
    CreditFrame,
    Epochs,
    Hello,
    LinkFrameDecoder,
    Part,
    Ping,
    Pong,
    Read,
    Receipts,
    decode,
)

U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1
EPOCHS = 2**63 - 1
u16s, u32s, u64s = st.integers(0, U16), st.integers(0, U32), st.integers(0, U64)
credits = st.tuples(*[st.builds(Credit, u64s, u64s)] * 8)
hashes = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)

hellos = st.builds(
    lambda versions, **fields: Hello(
        min(versions),
        max(versions),
        **fields,
    ),
    st.tuples(u16s, u16s),
    features=u64s,
    max_batch_bytes=st.integers(1024, U32),
    max_payload_size=u32s,
    epochs=st.builds(Epochs, st.integers(1, EPOCHS), st.integers(1, EPOCHS)),
    known_epochs=st.builds(Epochs, st.integers(0, EPOCHS), st.integers(0, EPOCHS)),
    marks=st.tuples(*[u64s] * 8),
    credit=credits,
)
streams, counts, lasts = st.integers(0, 7), st.integers(1, 256), st.binary(max_size=40)
longs = st.builds(lambda size, end: bytes(size) + end, st.integers(2046, 16_300), lasts)
parts = st.one_of(
    st.builds(Part, st.just(3), streams, lasts, counts, u32s),
    st.builds(Part, st.just(1), streams, longs, counts, u32s),
    st.builds(Part, st.just(0), streams, longs),
    st.builds(Part, st.just(2), streams, lasts),
    st.builds(Part, st.just(4), streams),
)
names = st.lists(hashes, min_size=1, max_size=5).map(tuple)
receipts = st.builds(Receipts, st.integers(1, 3), u64s, names, signatures, st.integers(0, 1))
refusals = st.builds(
    Receipts, st.just(4), u64s, names, signatures, st.integers(0, 255), st.binary(max_size=256)
)
printable = st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=256)
closes = st.builds(Close, u16s, printable)
stamps = st.builds(Stamp, u64s, u64s)
pings = st.builds(Ping, u64s, stamps)
any_frame = st.one_of(
    hellos,
    parts,
    receipts,
    refusals,
    st.builds(Read, u64s, u32s, u64s),
    st.builds(CreditFrame, credits),
    pings,
    st.builds(Pong, pings, stamps, stamps),
    closes,
)


def framed(kind: int, body: bytes) -> bytes:
    return (len(body) + 1).to_bytes(4, "big") + bytes([kind]) + body


def refusal(kind: int, body: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(kind, body)
    assert caught.value.reason is Reason.PROTOCOL_ERROR
    return str(caught.value)


def le(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


class TestLayouts:
    """Each frame as in docs/protocol.md, byte for byte."""

    def test_hello(self) -> None:
        hello = Hello(
            min_version=2,
            max_version=3,
            features=4,
            max_batch_bytes=6000,
            max_payload_size=5,
            epochs=Epochs(durable=7, volatile=8),
            known_epochs=Epochs(durable=9, volatile=10),
            marks=tuple(range(11, 19)),
            credit=tuple(Credit(n, n + 1) for n in range(19, 35, 2)),
        )
        body = le(2, 2) + le(3, 2) + le(4, 8) + le(5, 4) + le(6000, 4)
        body += b"".join(le(n, 8) for n in range(7, 35))
        assert len(body) == 244
        assert hello.encode() == framed(1, body)
        assert decode(1, body) == hello

    @pytest.mark.parametrize("stream", range(8))
    def test_the_fields_of_a_stream(self, stream: int) -> None:
        numbers = [0] * 24
        numbers[stream], numbers[8 + 2 * stream : 10 + 2 * stream] = 7, (8, 9)
        body = le(2, 2) + le(2, 2) + bytes(12) + le(1024, 4) + le(1, 8) + le(1, 8) + bytes(16)
        hello = decode(1, body + b"".join(le(n, 8) for n in numbers))
        assert isinstance(hello, Hello)
        assert hello.marks == tuple(7 * (n == stream) for n in range(8))
        assert hello.credit == tuple(Credit(8, 9) if n == stream else (0, 0) for n in range(8))

    @pytest.mark.parametrize(
        ("part", "body"),
        [
            (Part(3, 1, b"abc", 2, 9), b"\3\1" + le(2, 2) + le(9, 4) + b"abc"),
            (Part(1, 3, b"abc", 2, 9), b"\1\3" + le(2, 2) + le(9, 4) + b"abc"),
            (Part(0, 2, b"abc"), b"\0\2abc"),
            (Part(2, 0, b""), b"\2\0"),
            (Part(4, 0), b"\4\0"),
            (Part(3, 4, b"abc", 1, 9), b"\3\4" + le(1, 2) + le(9, 4) + b"abc"),
            (Part(2, 7, b""), b"\2\7"),
            (Part(4, 5), b"\4\5"),
        ],
    )
    def test_parts(self, part: Part, body: bytes) -> None:
        assert part.encode() == framed(2, body)

    def test_read(self) -> None:
        assert Read(U64 - 1, 7, 9).encode() == framed(4, le(U64 - 1, 8) + le(7, 4) + le(9, 8))

    @pytest.mark.parametrize("committed", [0, 1])
    @pytest.mark.parametrize("kind", [1, 2, 3])
    def test_receipts(self, kind: int, committed: int) -> None:
        frame = Receipts(kind, 7, (b"\1" * 32, b"\2" * 32), b"s" * 64, committed)
        statement = le(kind, 1) + le(7, 8) + le(committed, 1) + le(2, 2)
        statement += b"\1" * 32 + b"\2" * 32
        assert frame.statement == statement
        assert frame.encode() == framed(3, statement + b"s" * 64)
        assert (frame.is_committed, frame.reason) == (committed == 1, None)
        assert frame.explanation == ""

    @pytest.mark.parametrize("text", [b"", "zu groß".encode()])
    def test_refusals(self, text: bytes) -> None:
        frame = Receipts(4, 7, (b"\1" * 32,), b"s" * 64, 14, text)
        statement = b"\4" + le(7, 8) + b"\x0e" + le(len(text), 2) + text + le(1, 2) + b"\1" * 32
        assert frame.statement == statement
        assert frame.encode() == framed(3, statement + b"s" * 64)
        assert (frame.is_committed, frame.reason) == (False, Reason.SIZE_RULE)
        assert frame.explanation == text.decode()

    def test_credit_ping_pong(self) -> None:
        credit = tuple(Credit(n, n + 1) for n in range(1, 17, 2))
        body = b"".join(le(n, 8) for n in range(1, 17))
        assert len(body) == 128
        assert CreditFrame(credit).encode() == framed(5, body)
        ping = Ping(9, Stamp(1, 2))
        numbers = [le(number, 8) for number in (9, 1, 2, 3, 4, 5, 6)]
        assert ping.encode() == framed(6, b"".join(numbers[:3]))
        assert Pong(ping, Stamp(3, 4), Stamp(5, 6)).encode() == framed(7, b"".join(numbers))

    def test_close(self) -> None:
        assert Close(3, "bye").encode() == framed(8, le(3, 2) + le(3, 2) + b"bye")

    def test_the_codes(self) -> None:
        assert {str(reason): code for reason, code in frames.REASON_CODES.items()} == {
            "expired": 1,
            "not for us": 2,
            "too large": 3,
            "inbox full": 4,
            "not allowed": 5,
            "refused": 6,
            "malformed": 7,
            "bad signature": 8,
            "duplicate": 9,
            "unknown subject": 10,
            "clock unknown": 11,
            "rate": 12,
            "role": 13,
            "size rule": 14,
            "subject rule": 15,
        }
        codes = [value for name, value in vars(frames).items() if name.startswith("CLOSE_")]
        assert codes == list(range(11))

    @given(any_frame)
    def test_what_is_encoded_is_decoded(self, frame: frames.Frame) -> None:
        data = frame.encode()
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        assert decode(data[4], data[5:]) == frame


class TestRanges:
    """Every field out of its range, and every body of another length."""

    @given(any_frame.filter(lambda frame: not isinstance(frame, Close | Part)), st.data())
    def test_a_body_cut_or_prolonged(self, frame: frames.Frame, data: st.DataObject) -> None:
        raw = frame.encode()
        size = data.draw(st.integers(0, len(raw) - 6))
        refusal(raw[4], raw[5:][:size])
        more = bytes(data.draw(st.integers(1, 70)))
        if isinstance(frame, Hello):
            assert decode(raw[4], raw[5:] + more) == frame
        else:
            refusal(raw[4], raw[5:] + more)

    @given(hellos, st.binary(max_size=16 * 1024 - 5 - 244))
    def test_a_later_version_may_add_to_its_hello(self, hello: Hello, more: bytes) -> None:
        body = hello.encode()[5:]
        assert len(body) == 244
        data = framed(frames.HELLO, body + more)
        ((kind, body),) = LinkFrameDecoder().receive_data(data)
        assert decode(kind, body) == hello

    @given(closes, st.integers(1, 300))
    def test_a_close_cut_or_prolonged(self, frame: Close, size: int) -> None:
        body = frame.encode()[5:]
        assert refusal(frames.CLOSE, body + bytes(size)).startswith("the peer sent a CLOSE of")
        refusal(frames.CLOSE, body[:-size])

    @pytest.mark.parametrize("kind", [0, 9, 0x7F])
    def test_an_unknown_type(self, kind: int) -> None:
        assert refusal(kind, b"") == f"the peer sent a frame of unknown type {kind:#04x}"

    @given(st.integers(0x80, 0xFF), st.binary(max_size=50))
    def test_an_unknown_type_that_may_be_skipped(self, kind: int, body: bytes) -> None:
        assert decode(kind, body) is None

    @pytest.mark.parametrize(
        ("at", "field"),
        [
            (0, le(3, 2) + le(2, 2)),
            (20, bytes(8)),
            (20, le(EPOCHS + 1, 8)),
            (20, le(U64, 8)),
            (28, bytes(8)),
            (28, le(EPOCHS + 1, 8)),
            (28, le(U64, 8)),
            # The owner of that epoch could not take a later one.
            (36, le(EPOCHS + 1, 8)),
            (36, le(U64, 8)),
            (44, le(EPOCHS + 1, 8)),
            (44, le(U64, 8)),
            (16, le(0, 4)),
            (16, le(1023, 4)),
        ],
    )
    @given(hellos, st.binary(max_size=3))
    def test_a_hello_that_contradicts_itself(
        self, at: int, field: bytes, hello: Hello, more: bytes
    ) -> None:
        body = hello.encode()[5:]
        body = body[:at] + field + body[at + len(field) :] + more
        assert (
            refusal(frames.HELLO, body)
            == "the peer sent a HELLO with illegal versions, epochs or sizes"
        )

    @pytest.mark.parametrize("epochs", list(itertools.product((1, EPOCHS), repeat=2)))
    @pytest.mark.parametrize("known_epochs", list(itertools.product((0, EPOCHS), repeat=2)))
    @pytest.mark.parametrize("max_payload_size", [0, 1 << 20, U32])
    def test_a_hello_at_its_limits(
        self, epochs: tuple[int, int], known_epochs: tuple[int, int], max_payload_size: int
    ) -> None:
        hello = Hello(
            min_version=2,
            max_version=2,
            features=U64,
            max_batch_bytes=1024,
            max_payload_size=max_payload_size,
            epochs=Epochs(*epochs),
            known_epochs=Epochs(*known_epochs),
            marks=(U64, 0) * 4,
            credit=(Credit(U64, 0), Credit(0, U64)) * 4,
        )
        assert decode(frames.HELLO, hello.encode()[5:]) == hello

    def test_every_other_frame_fits(self) -> None:
        receipts = Receipts(1, U64, (bytes(32),) * 500, bytes(64))
        refusals = Receipts(4, U64, (bytes(32),) * 500, bytes(64), 255, bytes(256))
        for frame in (receipts, refusals):
            assert len(frame.encode()) <= frames.MAX_FRAME_SIZE
        assert len(refusals.encode()) - 5 == frames.MAX_RECEIPT_SIZE

    @pytest.mark.parametrize("count", [0, 257, U16])
    def test_how_many_envelopes_a_batch_has(self, count: int) -> None:
        body = b"\3\0" + le(count, 2) + le(9, 4)
        assert refusal(frames.ENVELOPES, body) == (
            f"the peer sent a batch of {count} envelopes, legal are 1 to 256"
        )

    @pytest.mark.parametrize("flags", [5, 6, 7, 8, 10, 12, 13, 15, 16, 255])
    def test_flags_of_a_part(self, flags: int) -> None:
        body = bytes([flags, 0]) + le(1, 2) + le(9, 4) + bytes(4000)
        assert refusal(frames.ENVELOPES, body) == (
            f"the peer sent a part with the flags {flags} in stream 0"
        )

    @pytest.mark.parametrize("stream", [8, 9, 128, 255])
    @pytest.mark.parametrize("flags", [0, 1, 2, 3, 4])
    def test_streams_of_a_part(self, flags: int, stream: int) -> None:
        body = bytes([flags, stream]) + le(1, 2) + le(9, 4) + bytes(4000)
        assert refusal(frames.ENVELOPES, body) == (
            f"the peer sent a part with the flags {flags} in stream {stream}"
        )

    @pytest.mark.parametrize("flags", [0, 1])
    def test_a_small_part_that_is_not_the_last(self, flags: int) -> None:
        body = bytes([flags, 0]) + le(1, 2) + le(9, 4) + bytes(2040)
        assert isinstance(decode(frames.ENVELOPES, body), Part)
        assert refusal(frames.ENVELOPES, body[:-1]) == (
            "the peer sent a part of 2047 bytes that is not the last"
        )

    def test_an_abort_has_no_bytes(self) -> None:
        assert refusal(frames.ENVELOPES, b"\4\0x") == (
            "the peer sent the abort of a batch with bytes of it"
        )

    @pytest.mark.parametrize("kind", [0, 5, 255])
    def test_a_receipt_of_unknown_kind(self, kind: int) -> None:
        body = bytes([kind]) + le(7, 8) + b"\0" + le(1, 2) + bytes(96)
        assert refusal(frames.RECEIPT, body) == f"the peer sent a receipt of unknown kind {kind}"

    @pytest.mark.parametrize("kind", [1, 2, 3])
    @pytest.mark.parametrize("committed", [2, 255])
    def test_a_receipt_that_is_neither_committed_nor_not(self, kind: int, committed: int) -> None:
        body = bytes([kind]) + le(7, 8) + le(committed, 1) + le(1, 2) + bytes(96)
        assert refusal(frames.RECEIPT, body) == (
            f"the peer sent a receipt whose byte `committed` is {committed}"
        )

    @pytest.mark.parametrize("start", [b"\1" + bytes(9), b"\4" + bytes(8) + b"\1\0\0"])
    @pytest.mark.parametrize("count", [0, 501, U16])
    def test_how_many_hashes_a_receipt_has(self, count: int, start: bytes) -> None:
        body = start + le(count, 2) + bytes(32 * count + 64)
        assert refusal(frames.RECEIPT, body) == (
            f"the peer sent a receipt whose statement has {len(body) - 64} bytes for {count} hashes"
        )

    def test_the_largest_receipt(self) -> None:
        frame = decode(frames.RECEIPT, b"\1" + bytes(9) + le(500, 2) + bytes(32 * 500 + 64))
        assert isinstance(frame, Receipts)
        assert len(frame.hashes) == 500

    @pytest.mark.parametrize("code", [0, 16, 17, 255])
    @pytest.mark.parametrize(("text", "said"), [(b"", ""), (b"later", ": later")])
    def test_an_unknown_reason_reads_as_refused(self, code: int, text: bytes, said: str) -> None:
        sent = Receipts(4, 7, (bytes(32),), bytes(64), code, text)
        frame = decode(frames.RECEIPT, sent.encode()[5:])
        assert frame == sent
        assert isinstance(frame, Receipts)
        assert frame.reason is Reason.REFUSED
        assert frame.explanation == f"code {code}{said}"

    @pytest.mark.parametrize("size", [257, U16])
    def test_a_text_that_is_too_long(self, size: int) -> None:
        body = b"\4" + le(7, 8) + b"\1" + le(size, 2) + bytes(size) + le(1, 2) + bytes(96)
        assert refusal(frames.RECEIPT, body) == f"the peer sent a refusal with {size} bytes of text"

    def test_a_text_that_is_not_printable_is_kept_for_the_proof_and_not_shown(self) -> None:
        text = b"\x1b[2J\n\xff\xe2\x80\xaeok"
        frame = decode(
            frames.RECEIPT, Receipts(4, 7, (bytes(32),), bytes(64), 6, text).encode()[5:]
        )
        assert isinstance(frame, Receipts)
        assert frame.text == text
        assert frame.explanation == "?[2J?\N{REPLACEMENT CHARACTER}?ok"

    def test_a_long_reason_is_cut(self) -> None:
        data = Close(1, "é" * 200).encode()
        frame = decode(data[4], data[5:])
        assert frame == Close(1, "é" * 128)

    def test_a_reason_that_is_too_long(self) -> None:
        refusal(frames.CLOSE, le(1, 2) + le(257, 2) + bytes(257))

    def test_a_reason_cannot_move_the_cursor(self) -> None:
        text = b"\x1b[2J\r\n\xff\xfe\xe2\x80\xaeok"
        assert decode(frames.CLOSE, le(1, 2) + le(len(text), 2) + text) == Close(
            1, "?[2J??\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}?ok"
        )

    @settings(max_examples=300)
    @given(st.integers(0, 255), st.binary(max_size=300))
    def test_any_bytes_are_a_frame_or_a_protocol_error(self, kind: int, body: bytes) -> None:
        try:
            frame = decode(kind, body)
        except RemoteProtocolError:
            return
        if isinstance(frame, Hello):
            assert frame.encode() == framed(kind, body[:100])
        elif frame is not None and not isinstance(frame, Close):
            assert frame.encode() == framed(kind, body)


def feed(decoder: LinkFrameDecoder, pieces: list[bytes]) -> list[tuple[int, bytes]]:
    return [frame for piece in pieces for frame in decoder.receive_data(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `places`, which may repeat (an empty piece) or lie outside."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


class TestDecoder:
    @given(
        st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=30)), max_size=8),
        st.lists(st.integers(0, 300)),
    )
    def test_any_split_yields_the_same_frames(
        self, sent: list[tuple[int, bytes]], places: list[int]
    ) -> None:
        decoder = LinkFrameDecoder(31)
        stream = b"".join(framed(kind, body) for kind, body in sent)
        assert feed(decoder, cut(stream, places)) == sent
        assert not decoder.has_partial_frame

    @given(st.integers(1, 39), st.lists(st.integers(0, 300)))
    def test_an_unfinished_frame_is_owed(self, size: int, places: list[int]) -> None:
        decoder = LinkFrameDecoder()
        stream = framed(6, b"12345678") + framed(0x80, bytes(40))[:size]
        assert feed(decoder, cut(stream, places)) == [(6, b"12345678")]
        assert decoder.has_partial_frame

    @given(st.integers(0, 3), st.sampled_from([0, 65, U32]), st.lists(st.integers(0, 300)))
    def test_frames_before_an_illegal_length_are_seen(
        self, count: int, length: int, places: list[int]
    ) -> None:
        decoder = LinkFrameDecoder(64)
        stream = framed(1, bytes(63)) * count + length.to_bytes(4, "big")
        seen: list[tuple[int, bytes]] = []
        pieces = (frame for piece in cut(stream, places) for frame in decoder.receive_data(piece))
        with pytest.raises(RemoteProtocolError) as caught:
            seen.extend(pieces)
        assert seen == [(1, bytes(63))] * count
        assert str(caught.value) == (f"the peer sent a frame of {length} bytes, legal are 1 to 64")

    def test_a_length_is_refused_before_its_body_is_kept(self) -> None:
        decoder = LinkFrameDecoder()
        with pytest.raises(RemoteProtocolError, match="legal are 1 to 16380"):
            list(decoder.receive_data((16 * 1024 - 3).to_bytes(4, "big")))

    def test_bytes_may_come_before_the_earlier_ones_were_read(self) -> None:
        decoder = LinkFrameDecoder(31)
        decoder.put(framed(1, b"a") + framed(2, b"b"))
        assert decoder.next_frame() == (1, b"a")
        decoder.put(framed(3, b"c")[:3])
        decoder.put(framed(3, b"c")[3:])
        assert [decoder.next_frame() for _ in range(3)] == [(2, b"b"), (3, b"c"), None]
        assert not decoder.has_unread
        assert not decoder.has_partial_frame

    def test_no_more_than_one_frame_is_kept(self) -> None:
        seed = random.randrange(2**32)
        draw = random.Random(seed)
        decoder = LinkFrameDecoder(1000)
        stream = b"".join(framed(2, bytes(draw.randrange(1000))) for _ in range(200))
        at = 0
        while at < len(stream):
            size = draw.randrange(1, 3000)
            for _ in decoder.receive_data(stream[at : at + size]):
                pass
            at += size
            assert len(decoder._rest) < 1004, f"seed {seed}"
        assert not decoder.has_partial_frame
