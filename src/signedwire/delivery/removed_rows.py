"""Ends the messages whose rows the store has removed by itself, or at the user's request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from signedwire.delivery.backlog_cursor import BacklogCursors
from signedwire.delivery.send_progress import SendProgress
from signedwire.delivery.session_map import SessionMap
from signedwire.delivery.store import RowName
from signedwire.types import DeliveryState, Did, Reason

__all__ = ["RemovedRows"]

_NOT_ACCEPTED: Final = frozenset(
    {DeliveryState.QUEUED, DeliveryState.PERSISTED, DeliveryState.WRITTEN}
)


class RemovedRows:
    """Ends the messages of removed rows: in the queue, in flight, or known by a receipt alone.

    Args:
        sessions: The sessions of all peers.
        cursors: The cursors of all peers, which have the receipts.
        progress: Answers whether the peer may have a message.
    """

    def __init__(
        self, sessions: SessionMap, cursors: BacklogCursors, progress: SendProgress
    ) -> None:
        self._sessions = sessions
        self._cursors = cursors
        self._progress = progress

    def end(self, names: Iterable[RowName], reason: Reason, cause: str = "") -> None:
        """End the messages of these rows. A message in flight is not sent again.

        Args:
            names: The removed rows.
            reason: Why they were removed.
            cause: Detail for their receipts; by default whether their peers may have them.
        """
        by_peer: dict[Did, set[tuple[int, int]]] = {}
        for did, lane, row in names:
            by_peer.setdefault(did, set()).add((lane, row))
        for did, rows in by_peer.items():
            self._end_of(did, rows, reason, cause)

    def _end_of(self, did: Did, rows: set[tuple[int, int]], reason: Reason, cause: str) -> None:
        sender, receipts = self._sessions.session(did).sender, self._cursors[did].receipts
        is_expired = reason is Reason.EXPIRED
        if is_expired:
            sender.end_half_sent()
        for message in sender.lanes.remove_if(
            lambda message: message.is_stored and (message.priority, message.row) in rows
        ):
            rows.remove((message.priority, message.row))
            why = cause or self._progress.doubt(message)
            message.is_stored = False  # no row is left of which to make a dead letter
            sender.give_up(message, reason, why)
        state = DeliveryState.EXPIRED if is_expired else DeliveryState.FAILED
        for name in rows:  # in flight, or in the store alone
            receipt = receipts.get(name)
            if receipt is None:
                sender.note_failed(reason)
            # Queued: the commit of its removal is reported before that of the message. Final: it
            # ended, and was counted, while its row was being removed.
            elif receipt.state in _NOT_ACCEPTED or not (is_expired or receipt.is_final):
                sender.note_failed(reason)
                detail = cause or self._progress.doubt_of_row(did, *name)
                receipt.advance(state, reason, detail)
