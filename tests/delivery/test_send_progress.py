"""`SendProgress`: what becomes of rows, and what a store answers when it has failed."""

from __future__ import annotations

import pytest

from signedwire.delivery.advice import UNANSWERED
from signedwire.delivery.send_progress import SendProgress
from signedwire.delivery.send_streams import Refused
from signedwire.delivery.store import MemoryStore, StoreLimits
from signedwire.errors import Cause, FailureKind
from signedwire.types import Priority, Reason
from storekit import OTHER, PEER, US, stored

LOW, NORMAL, HIGH, CRITICAL = Priority


@pytest.fixture
def progress() -> SendProgress:
    return SendProgress(MemoryStore(US))


def left(progress: SendProgress) -> int:
    """Number of rows that wait for the peer."""
    return len(progress.store.outbox(PEER).result())


def dead(progress: SendProgress) -> list[tuple[bytes, Reason, str]]:
    letters = progress.store.dead_letters().result()
    return [(letter.payload, letter.reason, letter.detail) for letter in letters]


class TestMessages:
    def test_the_last_written_row_of_each_lane(self, progress: SendProgress) -> None:
        store = progress.store
        messages = [stored(store, priority=lane) for lane in (HIGH, LOW, HIGH)]
        progress.written(PEER, messages)
        assert [store.lane(PEER, lane).written for lane in range(4)] == [1, 0, 2, 0]

    def test_settled(self, progress: SendProgress) -> None:
        message, other = stored(progress.store), stored(progress.store)
        other.is_stored = False
        progress.settled(PEER, [message, other])
        assert left(progress) == 1
        assert dead(progress) == []

    @pytest.mark.parametrize(
        ("reason", "letters"),
        [
            (Reason.EXPIRED, []),
            (Reason.TOO_LARGE, [(b"abc", Reason.TOO_LARGE, "too large")]),
        ],
    )
    def test_ended(
        self, progress: SendProgress, reason: Reason, letters: list[tuple[bytes, Reason, str]]
    ) -> None:
        progress.ended(stored(progress.store, b"abc"), reason, "too large")
        assert left(progress) == 0
        assert dead(progress) == letters

    def test_refused(self, progress: SendProgress) -> None:
        def refuse(
            payload: bytes, reason: Reason, detail: str = "", *, was_accepted: bool = False
        ) -> None:
            message = stored(progress.store, payload)
            if was_accepted:
                progress.settled(PEER, [message])
            progress.refused(PEER, [Refused(message, was_accepted)], reason, detail)

        refuse(b"late", Reason.EXPIRED)
        refuse(b"full", Reason.INBOX_FULL)
        refuse(b"nacked", Reason.REFUSED, "not today", was_accepted=True)
        refuse(b"late by the application", Reason.EXPIRED, was_accepted=True)
        assert left(progress) == 0
        assert sorted(dead(progress)) == [
            (b"full", Reason.INBOX_FULL, "the peer refused it"),
            (b"nacked", Reason.REFUSED, "the peer's application refused it: not today"),
        ]

    def test_whether_the_peer_may_have_it(self, progress: SendProgress) -> None:
        written, waits = stored(progress.store), stored(progress.store)
        progress.written(PEER, [written])
        assert [progress.doubt(message) for message in (written, waits)] == [UNANSWERED, ""]
        for message in (written, waits):
            message.is_stored = False  # the store has no answer for it
        waits.was_written = True
        assert [progress.doubt(message) for message in (written, waits)] == ["", UNANSWERED]


class TestOldCopies:
    def test_a_peer_that_has_accepted_what_was_never_sent(self, progress: SendProgress) -> None:
        message = stored(progress.store)
        assert progress.is_ahead(PEER, [0, message.sequence, 0, 0])
        progress.written(PEER, [message])
        assert not progress.is_ahead(PEER, [0, message.sequence, 0, 0])
        assert progress.is_ahead(PEER, [0, message.sequence + 1, 0, 0])


def test_a_store_that_has_failed_or_closed(progress: SendProgress) -> None:
    """Progress that can no longer be recorded is lost without an error."""
    store, message = progress.store, stored(progress.store)
    refused = [Refused(message, was_accepted=True)]
    store.close()
    cause = Cause("refused", FailureKind.REFUSED)
    progress.written(PEER, [message])
    progress.settled(PEER, [message])
    progress.refused(PEER, refused, Reason.REFUSED, "")
    progress.ended(message, Reason.TOO_LARGE, "")
    progress.attempt_failed(PEER, cause)
    progress.reached(PEER)
    progress.note_v2(PEER)
    assert isinstance(progress.epoch(PEER), int)


def test_an_epoch_where_a_failed_store_has_no_place_for_the_peer() -> None:
    """It can forget no stranger any more, and so keeps no epoch; HELLO needs one all the same."""
    store = MemoryStore(US, limits=StoreLimits(max_peers=1))
    progress = SendProgress(store)
    kept = progress.epoch(OTHER)
    store.close()
    assert isinstance(progress.epoch(PEER), int)
    assert progress.epoch(OTHER) == kept
