"""Opens and closes the evidence log, and reports its failures and rotations as events.

    receive ─→ (commit, with a store) ─→ EvidenceLog ─→ delivered, receipted

A message is accepted when the log has it on the disk. Only then the application gets the
message and the sender its receipt. A crash may come between the commit and the log. The
next start then writes to the log what only the store has.
"""

from __future__ import annotations

import asyncio
from functools import partial

from signedwire.delivery.store import Store
from signedwire.errors import ConfigError, StoreError
from signedwire.events import EvidenceFailed, EvidenceRemoved, EvidenceRotated
from signedwire.evidence.chain import name_of
from signedwire.evidence.files import Removed, Rotated, RotationPolicy
from signedwire.evidence.log import EvidenceLog
from signedwire.logs import fields
from signedwire.transport.own_thread import FileOpener, in_own_thread
from signedwire.transport.runtime import Runtime
from signedwire.transport.uncancelled import next_turn, wait_uncancelled

__all__ = ["close_evidence", "open_evidence"]


async def open_evidence(
    runtime: Runtime, store: Store | None, opener: FileOpener
) -> EvidenceLog | None:
    """Open the log that the configuration names; return `None` if it names none.

    Args:
        runtime: The surroundings of the parts of the node.
        store: The store of the node, which may have messages that the log lacks.
        opener: Opens the file.

    Raises:
        EvidenceLogError: the file cannot be used; its content is unchanged.
        ConfigError: the transport has no DID that could own the log.
    """
    config, us = runtime.config, runtime.us
    path = config.evidence
    if path is None:
        return None
    if us is None:
        raise ConfigError(
            "an evidence log belongs to one DID, and this transport accepts all envelopes",
            "Make it with a did, or use a Node",
        )
    unacked: set[bytes] = set()
    if store is not None:
        after = 0
        while rows := await asyncio.wrap_future(store.unacked(after=after)):
            unacked.update(name_of(row.body) for row in rows)
            after = rows[-1].id
    dispatch = asyncio.get_running_loop().call_soon_threadsafe
    rotation = RotationPolicy(
        config.evidence_max_bytes, config.evidence_max_age, config.evidence_keep
    )
    open_ = partial(EvidenceLog, path, us, dispatch=dispatch, unacked=unacked, rotation=rotation)
    # If this call is cancelled, the thread reads a long log to its end and then closes it.
    log = await opener.open(open_, EvidenceLog.close)
    log.on_failed = partial(_emit_failure, runtime, log.path)
    log.on_rotation = partial(_emit_rotation, runtime, log.path)
    return log


def _emit_failure(runtime: Runtime, path: str, failure: StoreError) -> None:
    runtime.emit(EvidenceFailed(path, failure.fact))


def _emit_rotation(runtime: Runtime, path: str, news: Rotated | Removed) -> None:
    if isinstance(news, Rotated):
        runtime.emit(EvidenceRotated(path, news.archive, news.records, news.head))
    else:
        runtime.emit(EvidenceRemoved(path, news.archive, news.last_record))


async def close_evidence(runtime: Runtime, log: EvidenceLog | None, timeout: float) -> bool:
    """Write all accepted messages, and close the log.

    Args:
        runtime: The surroundings of the parts of the node.
        log: The log; `None`: there is nothing to close.
        timeout: Maximum time in seconds. The thread of the log then continues alone, which is
            logged.

    Returns:
        Whether the caller was cancelled meanwhile.
    """
    if log is None:
        return False
    closing = in_own_thread(log.close, timeout)
    is_cancelled = await wait_uncancelled(closing)
    if not closing.result():
        text = (
            "the disk does not answer, so the last accepted messages may not be in the evidence "
            "log %s; the thread of the log ends when the disk answers"
        )
        runtime.log.warning(text, log.path, extra=fields("disk silent", path=log.path))
    return await next_turn() or is_cancelled  # its last callbacks are in the queue of the loop
