"""Each part of a link alone: handshake, input, output, events, hang-up."""

from __future__ import annotations

import asyncio
import ssl
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from idkit import id_of
from linkkit import body, credits, frames_of, open_pair, ping
from linkkit import session as new_session
from signedwire import FailureKind, TransportConfig
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.stranger_room import StrangerRoom
from signedwire.delivery.stream_answers import Answers
from signedwire.errors import Cause, DidProofError
from signedwire.stats import Counters
from signedwire.transport import link_events
from signedwire.transport.answer_watch import AnswerWatch
from signedwire.transport.handshake import Handshake
from signedwire.transport.lingering import Lingering
from signedwire.transport.link_events import LinkEvents
from signedwire.transport.link_input import LinkInput
from signedwire.transport.link_output import LinkOutput
from signedwire.transport.link_socket import LinkSocket
from signedwire.transport.link_state import LinkState
from signedwire.transport.room_wait import RoomWait
from signedwire.transport.tls import TlsIdentity
from signedwire.transport.tls_channel import TlsChannel
from signedwire.types import Credit, DeliveryState, Did, Priority, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.header import stream_of
from signedwire.wire.session import BatchReceived, Closed, HelloReceived, Session
from wirekit import ALICE, BOB, on_asyncio

GONE: Final = Cause("the peer closed the connection", FailureKind.CLOSED)
NO_CREDIT: Final = credits(0, 0, 0, 0)


def channels() -> tuple[TlsChannel, TlsChannel]:
    """ALICE's channel, which has begun to dial, and BOB's."""
    client = TlsIdentity(ALICE).channel(is_server=False)
    client.start()
    return client, TlsIdentity(BOB).channel(is_server=True)


class TestHandshake:
    @pytest.mark.parametrize("expected", [BOB.did, None])
    def test_both_sides_prove_their_did(self, expected: Did | None) -> None:
        client, server = channels()
        ours, theirs = Handshake(client, expected), Handshake(server, None)
        assert theirs.receive_data(client.data_to_send()) is None
        assert ours.receive_data(server.data_to_send()) == BOB.did
        assert theirs.receive_data(client.data_to_send()) == ALICE.did

    def test_another_did_than_the_dialed_one(self) -> None:
        client, server = channels()
        handshake = Handshake(client, ALICE.did)
        server.receive_data(client.data_to_send())
        with pytest.raises(DidProofError) as caught:
            handshake.receive_data(server.data_to_send())
        assert caught.value.kind is FailureKind.WRONG_KEY

    def test_a_handshake_without_end(self) -> None:
        """The record has a header for 16 KiB, so TLS itself waits for more."""
        handshake = Handshake(channels()[1], None)
        assert handshake.receive_data(b"\x16\x03\x01\x40\x00" + bytes(8 * 1024 - 5)) is None
        with pytest.raises(DidProofError) as caught:
            handshake.receive_data(b"\0")
        assert caught.value.kind is FailureKind.TLS_FAILED

    def test_what_is_no_tls(self) -> None:
        with pytest.raises(ssl.SSLError):
            Handshake(channels()[1], None).receive_data(b"GET / HTTP/1.1\r\n\r\n")


class Shares:
    """Lets every link wait, until the test calls `work()`."""

    def __init__(self) -> None:
        self.served = 0

    def serve(self, worker: object) -> None:
        self.served += 1


class Owner:
    """BOB's link, and its state, as far as its input has to know them."""

    def __init__(self, *, is_costly: bool = False, is_denying: bool = False) -> None:
        self.is_costly = is_costly
        self.is_over = False
        self.is_known = True
        self.session: Session | None = None
        self.events: list[object] = []
        self.causes: list[object] = []
        self.turns = 0
        self._is_denying = is_denying
        self.input: LinkInput

    def begin(self, did: Did) -> None:
        assert did == ALICE.did
        if self._is_denying:
            self.end(Cause("denied", FailureKind.DENIED))
        else:
            self.session = new_session(BOB, ALICE)

    def take_events(self) -> None:
        while self.session is not None and (event := self.session.next_event()) is not None:
            self.events.append(event)

    def finish_turn(self) -> None:
        self.take_events()
        self.turns += 1

    def on_tls_failed(self, error: ssl.SSLError | DidProofError) -> None:
        self.end(error)

    def end(self, cause: object) -> None:
        self.is_over = True
        self.session = None
        self.causes.append(cause)
        self.input.clear()

    abort = end


class Wire:
    """ALICE's end of a connection whose other end is BOB's input."""

    def __init__(self, *, expected: Did | None = None, **owner: bool) -> None:
        self.channel, theirs = channels()
        self._theirs = theirs
        self.owner = Owner(**owner)
        self.socket = cast("Any", SimpleNamespace(is_reset=False, set_waiting=lambda _: None))
        self.shares = cast("Any", Shares())
        runtime: Any = SimpleNamespace(stranger_room=StrangerRoom(), config=TransportConfig())
        state = cast("Any", self.owner)
        known = cast("Any", frozenset[Did]())
        wait = RoomWait(runtime, known, state, state, self.socket)
        self.input = LinkInput(state, state, theirs, self.socket, self.shares, wait, expected)
        self.owner.input = self.input
        self.session = new_session(ALICE, BOB)

    def begin(self) -> Wire:
        """Complete the handshake; BOB has ALICE's HELLO then."""
        self.carry()
        self.channel.receive_data(self._theirs.data_to_send())
        self.send(self.session.data_to_send())
        self.work()
        assert [type(event) for event in self.owner.events] == [HelloReceived]
        self.owner.events.clear()
        return self

    def send(self, data: bytes) -> None:
        self.channel.send(data)
        self.carry()

    def carry(self) -> None:
        self.input.receive(self.channel.data_to_send())
        if self.owner.session is None:
            self.work()

    def work(self) -> None:
        while self.input.work(0.0, float("inf")):
            pass


PINGS: Final = b"".join(ping(number).encode() for number in range(5))


class TestLinkInput:
    @on_asyncio
    async def test_the_session_begins_when_the_did_is_proven(self) -> None:
        wire = Wire()
        assert wire.owner.session is None
        wire.begin()
        assert not wire.input.has_more
        assert not wire.owner.is_over

    @on_asyncio
    async def test_nothing_is_read_of_a_denied_peer(self) -> None:
        wire = Wire(is_denying=True)
        wire.carry()
        wire.channel.receive_data(wire._theirs.data_to_send())
        wire.send(wire.session.data_to_send())
        assert wire.owner.is_over
        assert not wire.input.has_more
        assert wire.owner.events == []

    @on_asyncio
    async def test_one_frame_in_each_step(self) -> None:
        wire = Wire().begin()
        wire.send(PINGS)
        assert wire.input.has_more
        steps = 1
        while wire.input.work(0.0, 0.0):  # the time of its share is over at once
            steps += 1
        assert steps == 1 + 5  # the record, then five frames
        assert wire.owner.turns >= steps

    @on_asyncio
    async def test_the_end_comes_after_the_frames_before_it(self) -> None:
        wire = Wire().begin()
        wire.send(PINGS + ping(9).encode()[:-1])
        wire.input.receive_end()
        assert wire.owner.events == []
        wire.work()
        (closed,) = wire.owner.events
        assert isinstance(closed, Closed)
        assert closed.reason is Reason.TRUNCATED
        assert wire.owner.session is not None
        sent = frames_of(wire.owner.session.data_to_send())
        pongs = [frame for frame in sent if isinstance(frame, frames.Pong)]
        assert [pong.ping for pong in pongs] == [ping(number) for number in range(5)]

    @on_asyncio
    async def test_the_end_of_an_idle_connection(self) -> None:
        wire = Wire().begin()
        wire.input.receive_end()
        (closed,) = wire.owner.events
        assert isinstance(closed, Closed)
        assert closed.reason is None

    @pytest.mark.parametrize("is_costly", [False, True])
    @on_asyncio
    async def test_a_loss_comes_after_the_input_before_it(self, *, is_costly: bool) -> None:
        """If the peer is costly, its input is thrown away."""
        wire = Wire().begin()
        wire.owner.is_costly = is_costly
        wire.send(PINGS)
        wire.input.lose(GONE)
        assert wire.owner.is_over is is_costly
        wire.work()
        assert wire.owner.causes == [GONE]
        assert wire._theirs._tls is None
        assert not wire.input.has_more

    @on_asyncio
    async def test_nothing_is_decrypted_after_the_end_of_the_session(self) -> None:
        """A CLOSE that waits for the disk leaves the link as it is for a moment."""
        wire = Wire().begin()
        wire.send(frames.Close(frames.CLOSE_DONE, "").encode())
        wire.work()
        wire.input.receive(b"no TLS at all")
        wire.work()
        assert [type(event) for event in wire.owner.events] == [Closed]
        assert not wire.input.has_more
        assert wire.owner.causes == []

    @on_asyncio
    async def test_broken_tls(self) -> None:
        wire = Wire().begin()
        wire.input.receive(b"\x17\x03\x03\x00\x05world")
        wire.work()
        (cause,) = wire.owner.causes
        assert isinstance(cause, ssl.SSLError)

    @pytest.mark.parametrize(("is_costly", "pieces"), [(True, 25), (False, 4)])
    @on_asyncio
    async def test_the_size_of_a_step(self, *, is_costly: bool, pieces: int) -> None:
        wire = Wire().begin()
        wire.owner.is_costly = is_costly
        wire.input.receive(bytes(100_000))
        assert len(wire.input._queue) == pieces

    @on_asyncio
    async def test_a_flood_of_tiny_records_closes_the_session(self) -> None:
        wire = Wire().begin()
        for at in range(0, 100_000, 22):
            assert at >= 0
            wire.channel.send(b"\0")
        for _ in range(20):
            wire.carry()
            wire.work()
            for _ in range(4_000):
                wire.channel.send(b"\0")
        assert any(isinstance(event, Closed) for event in wire.owner.events)

    @pytest.mark.parametrize("is_costly", [False, True])
    @on_asyncio
    async def test_a_reset_while_input_waits(self, *, is_costly: bool) -> None:
        wire = Wire().begin()
        wire.owner.is_costly = is_costly
        assert not wire.input.drop_if_reset()
        wire.socket.is_reset = True
        assert wire.input.drop_if_reset() is is_costly
        assert wire.owner.is_over is is_costly

    @pytest.mark.parametrize("is_costly", [False, True])
    @on_asyncio
    async def test_a_link_that_waits_is_read_once_more_unless_it_is_costly(
        self, *, is_costly: bool
    ) -> None:
        wire = Wire().begin()
        wire.owner.is_costly = is_costly
        stops: list[bool] = []
        wire.socket.set_waiting = stops.append
        wire.input.set_waiting(True)
        assert stops == [True] * is_costly
        wire.send(PINGS)
        assert stops == [True] * (1 + is_costly)
        wire.work()
        wire.input.set_waiting(False)
        assert stops[-1] is False
        wire.send(PINGS)
        assert stops[-1] is False


class Channel:
    """Encrypts nothing."""

    def __init__(self) -> None:
        self._data = b""

    def send(self, data: bytes) -> None:
        self._data += data

    def data_to_send(self) -> bytes:
        data, self._data = self._data, b""
        return data


class Stream:
    """Takes everything, unless `pending` says how many bytes wait."""

    def __init__(self) -> None:
        self.written = b""
        self.pending = 0
        self.calls: list[str] = []
        self._is_closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def waiting(self) -> int:
        return self.pending

    unsent = waiting

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self.calls.append("close")
        self._is_closing = True

    def abort(self) -> None:
        self.calls.append("abort")
        self._is_closing = True


class Sender:
    """The sending half of a peer's session: one batch of a stream for each message."""

    def __init__(self, count: int) -> None:
        self.lanes: SendQueue[bytes] = SendQueue(1000)
        self.put(*[body(number) for number in range(1, count + 1)])
        self.in_flight: list[bytes] = []
        self.dead: list[bytes] = []
        self.names: list[bytes] = []

    def put(self, *bodies: bytes) -> None:
        self.lanes.add_many(bodies, stream_of(bodies[0]) if bodies else 0)

    def next_batch(
        self, stream: int, credit: Credit, largest: int, max_bytes: int
    ) -> list[OutgoingMessage]:
        if not credit.messages:
            return []
        message = OutgoingMessage(SendOptions(BOB.did, Priority.NORMAL), id_of(1))
        message.body = self.lanes.lane(stream).popleft()
        return [message]

    def sent(self, batch: Any, messages: list[Any], bodies: list[bytes]) -> None:
        self.in_flight += bodies
        self.names.append(batch.name)

    def is_dead(self, message: OutgoingMessage) -> bool:
        return message.body in self.dead

    def aborted(self, name: bytes) -> None:
        self.names.remove(name)

    @property
    def streams(self) -> Any:
        return SimpleNamespace(is_in_flight=lambda name: bool(self.in_flight))


class Output:
    """A `LinkOutput` over a session that is open."""

    def __init__(self, count: int = 0, **limits: Any) -> None:
        session, self.peer = open_pair(**limits)
        session.outgoing.window.rate = 1e12  # it holds nothing back
        self.sender = Sender(count)
        self.stream = cast("Any", Stream())
        self.lingering = Lingering()
        self.counters = Counters()
        self.socket = LinkSocket(self.counters, self.lingering)
        self.socket.open(self.stream)
        loop = asyncio.get_running_loop()
        self.state = LinkState(None, 0.0, loop.create_future())
        self.state.session = session
        self.state.peer_session = cast("Any", SimpleNamespace(sender=self.sender))
        self.answers = AnswerWatch(10, 10, lambda: None)
        channel: Any = Channel()
        self.batches = 0
        self.output = LinkOutput(
            self.state, channel, self.socket, self.answers, self._on_batch, loop
        )

    def _on_batch(self) -> None:
        self.batches += 1

    def frames(self) -> list[str]:
        written, self.stream.written = self.stream.written, b""
        return [
            "Joint" if isinstance(frame, frames.Part) and frame.joined else type(frame).__name__
            for frame in frames_of(written)
        ]


class TestLinkOutput:
    @on_asyncio
    async def test_no_batch_before_the_hello_of_the_peer(self) -> None:
        out = Output(1)
        out.output.pump()
        assert out.frames() == []
        out.state.note_open()
        out.output.pump()
        assert out.frames() == ["Part"]

    @on_asyncio
    async def test_no_batch_for_a_connection_that_is_lost(self) -> None:
        """Its link may still be open, because received bytes wait for a later turn."""
        out = Output(1)
        out.state.note_open()
        out.stream.abort()
        out.output.pump()
        assert (out.frames(), out.sender.in_flight) == ([], [])

    @on_asyncio
    async def test_one_batch_in_each_turn_of_the_loop(self) -> None:
        out = Output(3)
        out.state.note_open()
        out.output.pump()
        assert len(out.sender.in_flight) == 1
        await asyncio.sleep(0)
        assert len(out.sender.in_flight) == 2
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(out.sender.in_flight) == 3
        assert out.batches == 3
        out.answers.end()

    @on_asyncio
    async def test_a_batch_whose_messages_are_dead_is_aborted(self) -> None:
        out = Output(0)
        large, small = body(1, bytes(50_000)), body(2)
        out.sender.put(large, small)
        out.state.note_open()
        out.stream.pending = 60_000  # room for one part
        out.output.pump()
        out.output.pump()  # it takes no more now
        assert out.frames() == ["Part"]
        out.sender.dead.append(large)
        out.stream.pending = 0
        out.socket.writable()
        out.output.pump()
        written = frames_of(out.stream.written)
        assert written[0] == frames.Part(frames.ABORT, Priority.NORMAL)
        assert out.frames() == ["Part", "Part"]
        assert len(out.sender.names) == 1
        assert out.output._under_way == {}
        assert list(out.output._ends) == out.sender.names
        out.answers.end()

    @on_asyncio
    async def test_a_batch_that_is_handed_out_is_not_aborted(self) -> None:
        out = Output(1)
        out.state.note_open()
        out.sender.dead += out.sender.lanes
        out.output.pump()
        out.output.pump()
        assert out.frames() == ["Part"]
        assert len(out.sender.names) == 1
        out.answers.end()

    @on_asyncio
    async def test_an_answer_is_awaited_when_the_batch_was_read(self) -> None:
        out = Output(1)
        out.state.note_open()
        session, sender = out.state.session, cast("Any", out.sender)
        assert session is not None
        assert out.output._awaited(session, sender) is None
        out.output.pump()
        ((root, end),) = out.output._ends.items()
        assert out.output._awaited(session, sender) == (root, 0)
        session.outgoing.window.read = end - 1
        assert out.output._awaited(session, sender) == (root, end - 1)
        session.outgoing.window.read = end
        assert out.output._awaited(session, sender) == (root, -1)
        out.sender.in_flight.clear()
        assert out.output._awaited(session, sender) is None
        out.answers.end()

    @on_asyncio
    async def test_parts_go_as_the_socket_takes_them(self) -> None:
        out = Output(theirs=credits(9, 1 << 20, 9, 1 << 20))
        out.sender.put(body(1, bytes(100_000)))
        out.state.note_open()
        out.stream.pending = 1
        out.output.pump()
        assert out.frames() == ["Part"] * 4  # 64 KiB
        out.output.pump()
        assert out.frames() == []
        out.stream.pending = 0
        out.socket.writable()
        assert out.socket._unwritten == []
        out.output.pump()
        assert out.frames() == ["Part"] * 3
        assert out.batches == 1
        out.answers.end()

    @on_asyncio
    async def test_what_the_system_may_have_taken_at_the_end_is_written(self) -> None:
        out = Output()
        out.stream.pending = 1
        taken, unsent = (
            OutgoingMessage(SendOptions(BOB.did, Priority.NORMAL), id_of(n)) for n in range(2)
        )
        out.socket.expect_written([taken])
        out.socket.write(b"a batch")
        assert (taken.state, out.counters.messages_sent) == (DeliveryState.QUEUED, 0)
        out.output.end()
        assert (taken.state, out.counters.messages_sent) == (DeliveryState.WRITTEN, 1)
        assert unsent.state is DeliveryState.QUEUED

    @on_asyncio
    async def test_no_batch_while_the_socket_is_full(self) -> None:
        out = Output(2)
        out.state.note_open()
        out.stream.pending = 1
        out.output.pump()
        assert len(out.sender.in_flight) == 1
        out.output.pump()
        out.output.pump_soon()
        await asyncio.sleep(0)
        assert len(out.sender.in_flight) == 1
        out.stream.pending = 0
        out.socket.writable()
        out.output.pump()
        assert len(out.sender.in_flight) == 2
        out.answers.end()

    @on_asyncio
    async def test_no_batch_without_credit(self) -> None:
        out = Output(1, theirs=NO_CREDIT)
        out.state.note_open()
        out.output.pump()
        assert out.frames() == []
        assert out.batches == 0

    @on_asyncio
    @pytest.mark.parametrize(
        ("roots", "leaves", "expected"),
        [
            (1, 0, ["Joint"]),
            (0, 2, ["Joint"]),
            (1, 1, ["Receipts", "Joint"]),  # one statement in a frame
            (480, 0, ["Joint"]),
            (501, 0, ["Receipts", "Receipts", "Part"]),  # more than one RECEIPT may name
            (501, 3, ["Receipts", "Receipts", "Joint"]),
        ],
    )
    async def test_receipts_that_wait_go_with_the_batch(
        self, roots: int, leaves: int, expected: list[str]
    ) -> None:
        out = Output(1)
        out.state.note_open()
        out.output.queue_receipts([bytes(32)] * roots, [bytes(32)] * leaves, is_committed=False)
        assert out.frames() == []
        out.output.pump()
        assert out.frames() == expected
        out.output._write_receipts()
        assert out.frames() == []
        out.answers.end()

    @on_asyncio
    async def test_receipts_go_alone_before_a_batch_of_several_parts(self) -> None:
        out = Output(theirs=credits(9, 1 << 20, 9, 1 << 20))
        out.sender.put(body(1, bytes(20_000)))
        out.state.note_open()
        out.output.queue_receipts([bytes(32)], [], is_committed=False)
        out.output.pump()
        assert out.frames() == ["Receipts", "Part", "Part"]
        out.answers.end()

    @on_asyncio
    async def test_receipts_do_not_wait_for_credit(self) -> None:
        out = Output(1, theirs=NO_CREDIT)
        out.state.note_open()
        out.output.queue_receipts([bytes(32)], [], is_committed=False)
        out.output.pump()
        assert out.frames() == []
        for _ in range(3):
            await asyncio.sleep(0)
        assert out.frames() == ["Receipts"]
        out.answers.end()

    @on_asyncio
    async def test_receipts_that_were_urgent_are_not_there_to_join(self) -> None:
        out = Output(1)
        out.state.note_open()
        out.output.queue_receipts([bytes(32)], [], is_committed=False, is_urgent=True)
        out.output.pump()
        assert out.frames() == ["Receipts", "Part"]
        out.answers.end()

    @on_asyncio
    async def test_credit_that_is_not_told_leaves_receipts_waiting(self) -> None:
        out = Output(1)
        out.state.note_open()
        out.output.queue_receipts([bytes(32)], [], is_committed=False)
        out.output.answer({1: Credit(1, 100)}, Answers([], [], []))
        out.output.pump()
        assert out.frames() == ["Joint"]
        out.answers.end()

    @on_asyncio
    async def test_receipts_go_before_credit(self) -> None:
        out = Output(1)
        out.state.note_open()
        out.output.queue_receipts([bytes(32)], [], is_committed=False)
        out.output.answer({1: Credit(600, 1 << 19)}, Answers([], [], []))
        out.output.pump()
        assert out.frames() == ["Receipts", "CreditFrame", "Part"]
        out.answers.end()

    @on_asyncio
    async def test_urgent_receipts_are_written_at_once(self) -> None:
        out = Output()
        out.output.queue_receipts([], [bytes(32)], is_committed=False, is_urgent=True)
        assert out.frames() == ["Receipts"]

    @on_asyncio
    async def test_receipts_of_one_read_share_a_signature(self) -> None:
        out = Output()
        out.output.receipts._delay._prompt_until = float("inf")  # the application has held the loop
        out.output.queue_receipts([bytes(32)], [], is_committed=False)
        assert out.frames() == ["Receipts"]
        out.output.gather()
        for _ in range(3):
            out.output.queue_receipts([bytes(32)], [], is_committed=False)
        assert out.frames() == []
        out.output.stop_gathering()
        out.output.flush()
        assert out.frames() == ["Receipts"]

    @on_asyncio
    async def test_credit_that_is_not_told_sets_nothing_going(self) -> None:
        out = Output()
        out.output.answer({1: Credit(1, 100)}, Answers([], [], []))
        assert not out.output.receipts._delay._is_waiting

    @on_asyncio
    async def test_refusals_go_before_credit(self) -> None:
        out = Output()
        refusal = frames.Refusal(bytes(32), Reason.REFUSED)
        out.output.answer({1: Credit(600, 1 << 19)}, Answers([bytes(32)], [], [refusal]))
        out.output.sign_receipts()
        out.output.flush()
        assert out.frames() == ["Receipts", "Receipts", "CreditFrame"]

    @on_asyncio
    async def test_nothing_is_written_after_the_end(self) -> None:
        out = Output(1)
        out.state.note_open()
        out.output.queue_receipts([bytes(32)], [], is_committed=False)
        out.output.pump_soon()
        out.state.note_over(GONE, None, None)
        out.output.end()
        out.output.pump()
        out.output.answer({1: Credit(1, 1)}, Answers([], [], []))
        for _ in range(4):
            await asyncio.sleep(0)
        assert out.frames() == []
        assert not out.sender.in_flight

    @on_asyncio
    async def test_frames_are_held_back(self) -> None:
        """The CLOSE of a session is written last, after answers that wait for the disk."""
        out = Output()
        out.output.is_held = True
        out.output.queue_receipts([bytes(32)], [], is_committed=False, is_urgent=True)
        assert out.frames() == []
        out.output.is_held = False
        out.output.flush()
        assert out.frames() == ["Receipts"]


FAULT: Final = Closed(frames.CLOSE_PROTOCOL_ERROR, "a bad frame", False, Reason.PROTOCOL_ERROR)
DONE: Final = Closed(frames.CLOSE_DONE, "done", True)
LEFT: Final = Closed(frames.CLOSE_DONE, "done", False)


class Events:
    """A `LinkEvents` of a link with one peer, which has sent `batches` batches."""

    def __init__(self, batches: int) -> None:
        state = LinkState(None, 0.0, asyncio.get_running_loop().create_future())
        receive = SimpleNamespace(receive=lambda *_: None)
        state.peer_session = cast("Any", SimpleNamespace(receiver=receive, did=ALICE.did))
        self.output = cast("Any", SimpleNamespace(is_held=False, gather=lambda: None))
        self.ends: list[Closed] = []
        self.reasons: list[Reason] = []
        runtime: Any = SimpleNamespace(
            is_open=True, drop=lambda reason, _did: self.reasons.append(reason)
        )
        self.events = LinkEvents(runtime, cast("Any", None), state, self.output, None)
        for _ in range(batches):
            self.handle(BatchReceived([], bytes(32), [], bytes(64)))

    def handle(self, event: BatchReceived | Closed) -> None:
        link: Any = SimpleNamespace(end_session=self.ends.append)
        self.events.handle(link, cast("Any", None), event)


class TestEndOfASession:
    @pytest.mark.parametrize(("closed", "is_held"), [(FAULT, True), (DONE, False), (LEFT, False)])
    @on_asyncio
    async def test_the_end_for_a_fault_is_delayed(self, closed: Closed, *, is_held: bool) -> None:
        link = Events(batches=1)
        link.handle(closed)
        assert link.output.is_held is is_held
        assert link.ends == ([] if is_held else [closed])
        assert link.reasons == ([] if closed.reason is None else [closed.reason])

    @pytest.mark.parametrize("closed", [FAULT, DONE, LEFT])
    @on_asyncio
    async def test_no_delay_without_batches(self, closed: Closed) -> None:
        link = Events(batches=1)
        assert link.events.settle() is None
        link.handle(closed)
        assert link.ends == [closed]
        assert not link.output.is_held

    @on_asyncio
    async def test_the_last_batch_ends_the_session(self) -> None:
        link = Events(batches=2)
        link.handle(FAULT)
        assert link.events.settle() is None
        assert link.events.settle() is FAULT

    @on_asyncio
    async def test_a_batch_that_is_not_stored_delays_the_end_for_a_moment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link_events, "_MAX_SETTLING", 0.01)
        link = Events(batches=1)
        link.handle(FAULT)
        await asyncio.sleep(0.05)
        assert link.ends == [FAULT]


class TestHangUp:
    @pytest.mark.parametrize(
        ("others", "is_node_open", "calls"),
        [(0, True, ["close"]), (64, True, ["abort"]), (64, False, ["close"])],
    )
    @on_asyncio
    async def test_the_number_that_may_linger_is_bounded(
        self, *, others: int, is_node_open: bool, calls: list[str]
    ) -> None:
        out = Output()
        for _ in range(others):
            out.lingering.add(Stream())
        out.socket.hang_up(is_node_open=is_node_open)
        assert out.stream.calls == calls
        out.socket.hang_up(is_node_open=False)  # a second time does nothing
        assert out.stream.calls == calls
        out.socket.lost()
        assert len(out.lingering._connections) == others
