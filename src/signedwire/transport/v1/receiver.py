"""Receives over v1: accepted connections, their deadlines, and the order of their messages.

The cost of a stranger is bounded. A connection must bring an acceptable envelope within
`handshake_timeout`, and a whole frame within `frame_timeout`. Both count from the start, so
trickling bytes gain no time. A connection is read only while its last chunk is being checked or is
done, and the application has room.

The signature of a single message is checked in the event loop, in 45 µs. Signatures of many
messages are checked in threads, on all cores, and the messages delivered in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Final

from signedwire.transport.inbound import InboundConnection
from signedwire.transport.network import Stream
from signedwire.transport.runtime import Runtime
from signedwire.transport.uncancelled import wait_uncancelled
from signedwire.transport.v1.frame_queue import FrameQueue
from signedwire.transport.v1.frame_timer import FrameTimer
from signedwire.transport.v1.intake import V1Intake
from signedwire.transport.v1.validator import Verified
from signedwire.types import Reason
from signedwire.wire.envelope import ENVELOPE_OVERHEAD
from signedwire.wire.frames import FrameDecoder

__all__ = ["V1Receiver"]

_MAX_INLINE: Final = 2
"""Messages that are checked in the loop. A thread costs about as much as two verifications."""
_SLICES_AHEAD: Final = 2
_MAX_UNACCEPTABLE: Final = 1000
"""Frames that a connection may bring before its first acceptable one."""


class V1Receiver:
    """One accepted v1 connection. It only reads.

    Args:
        runtime: The surroundings of all parts of the node.
        intake: The common part of all v1 connections.
        connection: The admission of this connection.
    """

    def __init__(self, runtime: Runtime, intake: V1Intake, connection: InboundConnection) -> None:
        self._runtime = runtime
        self._intake = intake
        self._connection = connection
        self._decoder = FrameDecoder(runtime.config.max_frame_size)
        self._stream: Stream | None = None
        self._frames = FrameQueue()
        self._in_check = 0  # frames that the worker has taken and not delivered or dropped
        self._worker: asyncio.Task[None] | None = None
        self._is_paused = False
        self._is_at_end = False
        self._is_lost = False
        self._unacceptable = 0
        late = partial(connection.refuse, Reason.TOO_SLOW, "a frame was not complete in time")
        self._frame_timer = FrameTimer(runtime.config.frame_timeout, late)

    # -- the connection -----------------------------------------------------

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        self._stream = stream

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        self._runtime.counters.bytes_received += len(data)
        if self._connection.is_refused:
            return
        self._connection.touch()
        had_partial = self._decoder.has_partial_frame
        frames = self._without_stubs(self._decoder.receive_data(data))
        if frames:
            self._frames.extend(frames)
            self._work()
        if self._decoder.error is not None:
            self._finish()
        else:
            self._watch_frame(is_new=bool(frames) or not had_partial)

    def _without_stubs(self, frames: list[bytes]) -> list[bytes]:
        """Drop and count frames that are too short for an envelope: one read can have 50,000."""
        whole = [frame for frame in frames if len(frame) >= ENVELOPE_OVERHEAD]
        if len(whole) < len(frames):
            self._drop(Reason.MALFORMED, len(frames) - len(whole))
        return whole

    def _drop(self, reason: Reason, count: int = 1) -> None:
        self._runtime.drop(reason, None, self._connection.host, count)
        self._unacceptable += count
        if not self._connection.is_proven and self._unacceptable > _MAX_UNACCEPTABLE:
            self._connection.refuse(reason, "it has brought 1,000 frames and none was acceptable")

    def ended(self) -> None:
        """See `Receiver`."""
        self._decoder.receive_eof()
        self._is_at_end = True
        self._finish()  # closes, when the frames that have arrived are delivered

    def writable(self) -> None:
        """See `Receiver`: nothing is written here."""

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        self._frame_timer.cancel()
        self._decoder.receive_eof()
        self._is_at_end = self._is_lost = True
        self._finish()
        if self._worker is None:
            self._connection.leave()
        elif self._connection.is_refused:
            self._call_off(self._worker)
        else:
            self._connection.note_ended()
        # The connection keeps its slot while its messages are held. Otherwise a stranger that
        # connects, writes and hangs up again and again could make the node hold ever more.

    def discard(self) -> None:
        """See `ConnectionHandler`."""
        self._frames.clear()
        self._frame_timer.cancel()
        if self._is_lost and self._worker is not None:
            self._call_off(self._worker)

    def turn_away(self, reason: str) -> bool:
        """See `ConnectionHandler`: v1 has no answers."""
        return False

    def _call_off(self, worker: asyncio.Task[None]) -> None:
        """Cancel the worker, and clean up for it: it may not have begun."""
        worker.cancel()
        self._intake.busy.discard(self)
        self._connection.leave()

    async def stop(self) -> bool:
        """End the checks and drop the frames. Returns what `wait_uncancelled()` does."""
        worker = self._worker
        if worker is None:
            return False
        untaken = self._in_check + len(self._frames)
        self._runtime.drop(Reason.INBOX_CLOSED, None, self._connection.host, untaken)
        worker.cancel()
        is_cancelled = await wait_uncancelled(worker)
        self._connection.leave()
        return is_cancelled

    @property
    def is_working(self) -> bool:
        """See `ConnectionHandler`."""
        return self._worker is not None or bool(self._frames)

    def _finish(self) -> None:
        """When all frames are delivered, close a stream that has ended or had a fault."""
        if self._worker is not None:
            return
        if self._decoder.error is not None:
            self._connection.refuse(self._decoder.error.reason, self._decoder.error.fact)
        elif self._is_at_end and self._stream is not None:
            self._stream.close()

    # -- pauses -------------------------------------------------------------

    def _watch_frame(self, *, is_new: bool) -> None:
        # While reading is paused, the peer cannot be late. `_resume()` calls this again.
        if not self._is_paused:
            is_partial = self._decoder.has_partial_frame
            self._frame_timer.watch(is_partial=is_partial, is_new=is_new)

    def _pause(self) -> None:
        if not self._is_paused and self._stream is not None:
            self._is_paused = True
            self._frame_timer.cancel()
            self._stream.pause_reading()

    def _resume(self) -> None:
        if self._is_paused and self._stream is not None and not self._stream.is_closing():
            self._is_paused = False
            self._stream.resume_reading()
            self._watch_frame(is_new=True)

    # -- checking and delivering, in order ------------------------------------

    def _work(self) -> None:
        if self._worker is None:
            if len(self._frames) <= _MAX_INLINE:
                self._work_inline()
            if not self._frames:
                return
            self._worker = asyncio.create_task(self._work_in_threads())
            self._intake.busy.add(self)
        if self._frames.is_full:
            self._pause()

    def _work_inline(self) -> None:
        while self._frames and self._intake.has_room():
            self._deliver([self._intake.validator.check(self._frames.take())])

    async def _work_in_threads(self) -> None:
        intake = self._intake
        checks: deque[asyncio.Future[list[Verified | Reason]]] = deque()
        try:
            while self._frames or checks:
                # Some slices ahead, so that no core waits for the loop. No more, so that a
                # burst of one connection does not delay all others.
                while self._frames and len(checks) < _SLICES_AHEAD * intake.threads:
                    frames = self._frames.take_slice(intake.threads)
                    self._in_check += len(frames)
                    checks.append(intake.run_in_thread(intake.validator.check_all, frames))
                await self._deliver_all(await checks.popleft())
                if self._frames.is_low:
                    self._resume()
        finally:
            self._worker = None
            intake.busy.discard(self)
            if self._is_lost:
                self._connection.leave()
            for check in checks:
                check.cancel()
        self._finish()

    async def _deliver_all(self, verdicts: list[Verified | Reason]) -> None:
        while verdicts:
            done = self._deliver(verdicts)
            self._in_check -= done
            verdicts = verdicts[done:]
            if verdicts:
                self._pause()
                await self._intake.inbox_room()

    def _deliver(self, verdicts: list[Verified | Reason]) -> int:
        """Deliver while the application has room; return how many were delivered or dropped."""
        intake, validator = self._intake, self._intake.validator
        for done, verdict in enumerate(verdicts):
            if isinstance(verdict, Reason):
                self._drop(verdict)
                continue
            if not self._connection.is_proven:
                # Also if the message must wait for the application: its sender was in time.
                self._connection.prove()
            if validator.is_replay(verdict):
                self._runtime.drop(
                    Reason.DUPLICATE, verdict.message.proven_sender, self._connection.host
                )
            elif intake.put(verdict.message, verdict.priority):
                validator.remember(verdict)
            else:
                return done
        return len(verdicts)
