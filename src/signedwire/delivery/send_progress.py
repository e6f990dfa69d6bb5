"""Records in the store how far the messages to peers have come, and answers from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from signedwire.clock import new_epoch
from signedwire.delivery.advice import UNANSWERED
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_streams import Refused
from signedwire.delivery.store import UNLESS_FAILED, Backlog, Store
from signedwire.errors import Cause, StoreError
from signedwire.types import Did, Reason

__all__ = ["SendProgress"]


class SendProgress:
    """The methods of an `OutboxStore` that need the store alone, neither a queue nor a loop.

    A method that records raises nothing if the store has failed: `put()` reports that.

    Args:
        store: The store.
    """

    is_durable = True

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def failure(self) -> StoreError | None:
        """The error that stopped the store; `None` while it works."""
        return self.store.failure

    # -- epochs ---------------------------------------------------------------------------

    def epoch(self, did: Did) -> int | None:
        """Return the epoch of the messages to a peer. Any thread."""
        for _ in range(2):  # a store that has failed makes an epoch and raises, then returns it
            with UNLESS_FAILED:
                return self.store.epoch(did)
        return new_epoch()

    def is_ahead(self, did: Did, marks: Sequence[int]) -> bool:
        """Whether the peer has accepted, in our epoch, sequences that this store never sent.

        Then the file is an old copy and our clock was set back since, or another process
        uses our key with a copy of this store.
        """
        return any(
            mark > self.store.lane(did, lane).written_sequence for lane, mark in enumerate(marks)
        )

    def learn(self, did: Did, marks: Sequence[int]) -> bool:
        """Record the peer's marks; return whether they show that the store is an old copy."""
        return self.store.learn(did, marks)

    # -- messages -------------------------------------------------------------------------

    def written(self, did: Did, messages: list[OutgoingMessage]) -> None:
        """Record that a link has taken messages."""
        with UNLESS_FAILED:
            for lane, row in {one.priority: one.row for one in messages if one.is_stored}.items():
                self.store.written(did, lane, row)

    def settled(self, did: Did, messages: Iterable[OutgoingMessage]) -> None:
        """Remove the rows of messages that need nothing more."""
        names = [(message.priority, message.row) for message in messages if message.is_stored]
        if names:
            with UNLESS_FAILED:
                self.store.settled(did, names)

    def refused(self, did: Did, refused: Iterable[Refused], reason: Reason, detail: str) -> None:
        """Make dead letters of messages that the peer refused; those that expired are removed."""
        is_late = reason is Reason.EXPIRED
        names: list[tuple[int, int]] = []
        with UNLESS_FAILED:
            for message, was_accepted in refused:
                if not message.options.is_durable:
                    continue
                if not was_accepted:
                    names.append((message.priority, message.row))
                elif not is_late:
                    why = _words("the peer's application refused it", detail)
                    self.store.dead_letter_accepted(did, message.body, reason, why)
            if names and is_late:
                self.store.settled(did, names)
            elif names:
                self.store.dead_letter(did, names, reason, _words("the peer refused it", detail))

    def ended(self, message: OutgoingMessage, reason: Reason, cause: str) -> None:
        """Make a dead letter of a message that was given up; if it expired, remove it."""
        did, name = message.recipient, (message.priority, message.row)
        with UNLESS_FAILED:
            if reason is Reason.EXPIRED:
                self.store.settled(did, [name])
            else:
                self.store.dead_letter(did, [name], reason, cause)

    def doubt(self, message: OutgoingMessage) -> str:
        """Return what to report of a message without an answer: whether its peer may have it."""
        if not message.is_stored:
            return UNANSWERED if message.was_written else ""
        return self.doubt_of_row(message.recipient, message.priority, message.row)

    def doubt_of_row(self, did: Did, lane: int, row: int) -> str:
        """Return what to report of the row of a message without an answer.

        A process that was killed has not recorded all that it had written.
        """
        return UNANSWERED if self.store.lane(did, lane).may_be_written(row) else ""

    # -- peers ----------------------------------------------------------------------------

    def attempt_failed(self, did: Did, cause: Cause) -> None:
        """Record that the peer could not be reached."""
        with UNLESS_FAILED:
            self.store.attempt_failed(did, cause)

    def reached(self, did: Did) -> None:
        """Record that the peer could be reached."""
        with UNLESS_FAILED:
            self.store.reset_attempts(did)

    def backlog(self, did: Did) -> Backlog | None:
        """Return how much waits for a peer."""
        return self.store.backlog(did)

    def has_spoken_v2(self, did: Did) -> bool:
        """Whether the DID has ever proven itself over v2. Any thread."""
        return self.store.has_spoken_v2(did)

    def note_v2(self, did: Did) -> None:
        """Record that a DID has proven itself over v2."""
        with UNLESS_FAILED:
            self.store.note_v2(did)


def _words(fact: str, detail: str) -> str:
    return f"{fact}: {detail}" if detail else fact
