"""`Handshake`, `LinkReader` and `UnsettledBatches` alone: no loop, no socket, no sleep."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator

import pytest

from signedwire.errors import DidProofError, FailureKind
from signedwire.transport.handshake import Handshake
from signedwire.transport.link_reader import LinkReader
from signedwire.transport.tls import TlsIdentity
from signedwire.transport.tls_channel import TlsChannel
from signedwire.transport.unsettled import UnsettledBatches
from signedwire.types import Credit, Did, Reason
from signedwire.wire.link_frames import Hello
from signedwire.wire.session import Closed, HelloReceived, Session, SessionLimits
from tlskit import MALLORY, hello
from wirekit import ALICE, BOB

_HELLO = Hello(
    min_version=2,
    max_version=2,
    epoch=1,
    features=0,
    max_frame_size=2**21,
    max_payload_size=2**20,
    credit=Credit(4096, 2**23, 64, 2**21),
    known_epoch=0,
    marks=(0, 0, 0, 0),
)


def channels() -> tuple[TlsChannel, TlsChannel]:
    """The channels of a dialer, ALICE, and of a listener, BOB."""
    return TlsIdentity(ALICE).channel(is_server=False), TlsIdentity(BOB).channel(is_server=True)


def shake(dialer: TlsChannel, listener: TlsChannel, expected: Did) -> Iterator[Did]:
    """Exchange bytes until both sides have proven a DID; yield each when it is proven."""
    dialed, accepted = Handshake(dialer, expected), Handshake(listener, None)
    dialer.start()
    for _ in range(4):
        if (did := accepted.receive_data(dialer.data_to_send())) is not None:
            yield did
            return
        if (did := dialed.receive_data(listener.data_to_send())) is not None:
            yield did


class TestHandshake:
    def test_both_sides_prove_their_did(self) -> None:
        assert list(shake(*channels(), expected=BOB.did)) == [BOB.did, ALICE.did]

    def test_another_did_than_the_one_that_was_dialed(self) -> None:
        with pytest.raises(DidProofError, match=f"{BOB.did} answered, not {MALLORY.did}") as caught:
            list(shake(*channels(), expected=MALLORY.did))
        assert caught.value.kind is FailureKind.WRONG_KEY

    def test_plaintext_behind_the_handshake_stays_in_the_channel(self) -> None:
        dialer, listener = channels()
        proven = shake(dialer, listener, BOB.did)
        assert next(proven) == BOB.did
        dialer.send(b"early")
        assert list(proven) == [ALICE.did]
        assert listener.receive_data(b"") == b"early"

    def test_a_handshake_has_at_most_8_kib(self) -> None:
        _, listener = channels()
        handshake = Handshake(listener, None)
        # A ClientHello that claims 60 KiB, in records of 1 KiB.
        handshake.receive_data(b"\x16\x03\x01\x04\x00\x01\x00\xf0\x00" + bytes(1020))
        for _ in range(6):
            assert handshake.receive_data(b"\x16\x03\x01\x04\x00" + bytes(1024)) is None
        with pytest.raises(DidProofError, match="not complete after") as caught:
            handshake.receive_data(b"\x16\x03\x01\x04\x00" + bytes(1024))
        assert caught.value.kind is FailureKind.TLS_FAILED


class TestReader:
    @pytest.fixture
    def loop(self) -> Iterator[asyncio.AbstractEventLoop]:
        """A loop that is only asked for its time."""
        loop = asyncio.new_event_loop()
        yield loop
        loop.close()

    def proven(self, loop: asyncio.AbstractEventLoop) -> tuple[LinkReader, TlsChannel]:
        """The reader of BOB, to whom ALICE has proven her DID, and ALICE's channel."""
        dialer, listener = channels()
        reader = LinkReader(listener, None, loop)
        dialed = Handshake(dialer, BOB.did)
        dialer.start()
        reader.put(dialer.data_to_send(), is_costly=True)
        assert reader.decrypt() is None
        assert dialed.receive_data(listener.data_to_send()) == BOB.did
        reader.put(dialer.data_to_send(), is_costly=True)
        assert reader.decrypt() == ALICE.did
        assert not reader.has_input
        return reader, dialer

    def session(self) -> Session:
        return Session(BOB, ALICE.did, _HELLO, SessionLimits(), 0.0)

    def test_frames_reach_the_session_once_it_has_begun(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        reader, dialer = self.proven(loop)
        session = self.session()
        reader.begin(session)
        dialer.send(hello())
        reader.put(dialer.data_to_send(), is_costly=False)
        assert reader.has_ciphertext
        assert not reader.handle_frame(0.0)
        assert reader.decrypt() is None
        assert reader.handle_frame(0.0)
        assert isinstance(session.next_event(), HelloReceived)
        assert not reader.has_input

    def test_the_end_waits_behind_the_bytes_before_it(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        reader, dialer = self.proven(loop)
        session = self.session()
        reader.begin(session)
        dialer.send(hello())
        reader.put(dialer.data_to_send(), is_costly=False)
        reader.put_end()
        reader.decrypt()
        assert session.next_event() is None
        reader.decrypt()
        assert isinstance(session.next_event(), HelloReceived)
        assert isinstance(session.next_event(), Closed)

    def test_a_broken_record_raises(self, loop: asyncio.AbstractEventLoop) -> None:
        reader, dialer = self.proven(loop)
        reader.begin(self.session())
        dialer.send(hello())
        record = bytearray(dialer.data_to_send())
        record[-1] ^= 1
        reader.put(bytes(record), is_costly=False)
        with pytest.raises(ssl.SSLError):
            reader.decrypt()

    def test_nothing_is_left_after_the_end_of_the_link(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        reader, dialer = self.proven(loop)
        reader.begin(self.session())
        dialer.send(hello())
        reader.put(dialer.data_to_send(), is_costly=False)
        reader.clear()
        assert not reader.has_input
        assert not reader.handle_frame(0.0)


class TestUnsettled:
    FAULT = Closed(code=1, reason=Reason.TOO_SLOW, cause="", is_by_peer=False)
    ORDERLY = Closed(code=0, reason=None, cause="", is_by_peer=False)
    BY_PEER = Closed(code=1, reason=Reason.TOO_SLOW, cause="", is_by_peer=True)

    def test_a_fault_waits_for_the_last_batch(self) -> None:
        batches = UnsettledBatches()
        batches.add()
        batches.add()
        assert batches.holds(self.FAULT)
        assert batches.settle() is None
        assert batches.settle() is self.FAULT

    @pytest.mark.parametrize("closed", [ORDERLY, BY_PEER])
    def test_another_end_waits_for_nothing(self, closed: Closed) -> None:
        batches = UnsettledBatches()
        batches.add()
        assert not batches.holds(closed)
        assert batches.settle() is None

    def test_a_fault_without_batches_waits_for_nothing(self) -> None:
        assert not UnsettledBatches().holds(self.FAULT)

    def test_an_end_that_was_carried_out_comes_only_once(self) -> None:
        batches = UnsettledBatches()
        batches.add()
        assert batches.holds(self.FAULT)
        batches.release()
        assert batches.settle() is None
