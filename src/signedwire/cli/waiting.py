"""`signedwire outbox` and `signedwire dead`: on the file, while no node has it open."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from signedwire.cli import keys
from signedwire.cli.errors import BadFile, BadInput, NotDone
from signedwire.cli.output import emit, escape, result, say
from signedwire.cli.render import at_utc, count_of, envelope_fields, payload_text, word
from signedwire.cli.storing import open_file, turn_of
from signedwire.delivery.store import DeadLetter, OutgoingRow, Store
from signedwire.errors import StoreError
from signedwire.identity import Identity
from signedwire.outbox import copy_of, export
from signedwire.types import Did
from signedwire.wire.envelope import UNSIGNED, MerklePath, SignedEnvelope

if TYPE_CHECKING:
    from signedwire.cli import store_surface as surface

__all__ = [
    "drop_dead",
    "drop_outbox",
    "export_outbox",
    "list_dead",
    "list_outbox",
    "retry_dead",
    "retry_outbox",
    "show_dead",
    "show_outbox",
]

Kept: TypeAlias = OutgoingRow | DeadLetter
K = TypeVar("K", OutgoingRow, DeadLetter)

_PAGE: Final = 500


class _Opened(NamedTuple):
    store: Store
    identity: Identity


@contextlib.contextmanager
def _opened(options: surface.StoreCommand) -> Iterator[_Opened]:
    identity = keys.load(options)
    with turn_of(identity.did):
        store = open_file(options, identity.did, options.settings.config())
        try:
            yield _Opened(store, identity)
        finally:
            store.close()


def _done(store: Store, submit: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Submit a change, and raise what it ended with."""
    told: list[StoreError | None] = []
    submit(*arguments, **options, on_commit=told.append)
    if told and told[0] is not None:
        raise told[0]
    if store.failure is not None:
        raise store.failure


# -- pages ----------------------------------------------------------------------------


def _outbox(store: Store, to: str | None) -> Iterator[OutgoingRow]:
    did, after = _did(to), 0
    while rows := store.outbox(did, after=after, limit=_PAGE).result():
        yield from rows
        after = rows[-1].id


def _dead(store: Store, to: str | None) -> Iterator[DeadLetter]:
    did, after = _did(to), 0
    while letters := store.dead_letters(did, after=after, limit=_PAGE).result():
        yield from letters
        after = letters[-1].id


def _did(to: str | None) -> Did | None:
    return None if to is None else Did.parse(to)


def _chosen(
    options: surface._OfSome, every: Callable[[Store, str | None], Iterator[K]], store: Store
) -> list[int]:
    """The ids that are meant; those that were named may not be there."""
    ways = (bool(options.ids), options.to is not None, options.all)
    if sum(ways) != 1:
        raise BadInput(
            "which of them?" if not any(ways) else "IDs, --to and --all exclude each other",
            "Give IDs as `list` shows them, or --to DID, or --all",
        )
    if options.ids:
        return list(dict.fromkeys(options.ids))
    return [kept.id for kept in every(store, options.to)]


def _report(options: surface.StoreCommand, done: list[int], missing: list[int], what: str) -> int:
    if options.json:
        emit({"ids": done, "missing": missing})
    else:
        result(f"{what} {count_of(len(done), 'message')}")
    if missing:
        raise NotDone(
            f"there is no message {', '.join(map(str, missing))}", "See `list` for what there is"
        )
    return 0


# -- the outbox -----------------------------------------------------------------------


def list_outbox(options: surface.OutboxList) -> int:
    """`signedwire outbox list`."""
    with _opened(options) as (store, identity):
        count = 0
        for row in _outbox(store, options.to):
            if count == options.limit:
                break
            count += 1
            if options.json:
                emit(_row_fields(row, identity.did, with_payload=False))
            else:
                result(_row_line(row))
        backlog, dead = store.backlog(_did(options.to)), store.stats().dead
    if not options.json:
        more = f", {count} shown" if count < backlog.rows else ""
        also = f"; {count_of(dead.rows, 'dead letter')}" if dead.rows else ""
        say(f"{count_of(backlog.rows, 'message')} waiting{more}, {backlog.bytes} bytes{also}")
    return 0


def show_outbox(options: surface.OutboxShow) -> int:
    """`signedwire outbox show`."""
    with _opened(options) as (store, identity):
        row = store.show(options.id).result()
    if row is None:
        raise NotDone(f"no message {options.id} waits", "See `signedwire outbox list`")
    if options.json:
        emit(_row_fields(row, identity.did, with_payload=True))
    else:
        _show(row, _why(row))
    return 0


def retry_outbox(options: surface.OutboxRetry) -> int:
    """`signedwire outbox retry`."""
    with _opened(options) as (store, _):
        did = _did(options.to)
        peers = [each for each in store.recipients() if did in (None, each)]
        for each in peers:
            store.reached(each)
        _done(store, store.barrier)
    if options.json:
        emit({"dids": [str(each) for each in peers]})
        return 0
    result(f"{count_of(len(peers), 'peer')} will be tried anew")
    if peers:
        say("that is when `signedwire send` to it runs, or `signedwire listen --peers FILE`")
    return 0


def drop_outbox(options: surface.OutboxDrop) -> int:
    """`signedwire outbox drop`."""
    with _opened(options) as (store, _):
        ids = _chosen(options, _outbox, store)
        there = [id_ for id_ in ids if store.show(id_).result() is not None]
        store.drop(there).result()
    return _report(options, there, [id_ for id_ in ids if id_ not in set(there)], "dropped")


def export_outbox(options: surface.OutboxExport) -> int:
    """`signedwire outbox export`."""
    with _opened(options) as (store, identity):
        try:
            count = export(store, identity, options.file)
        except FileExistsError:
            raise BadFile(
                f"{options.file} exists already, and is not overwritten", "Name another file"
            ) from None
        except OSError as error:
            raise BadFile(
                f"cannot write {options.file}: {error.strerror}",
                "Does the folder exist, and may you write to it?",
            ) from None
    if options.json:
        emit({"file": str(options.file), "envelopes": count})
    else:
        result(f"wrote {count_of(count, 'envelope')} to {escape(str(options.file))}")
    return 0


# -- dead letters ---------------------------------------------------------------------


def list_dead(options: surface.DeadList) -> int:
    """`signedwire dead list`."""
    with _opened(options) as (store, identity):
        count = 0
        for letter in _dead(store, options.to):
            if count == options.limit:
                break
            count += 1
            if options.json:
                emit(_letter_fields(letter, identity.did, with_payload=False))
            else:
                result(_letter_line(letter))
    if not options.json:
        say(f"{count_of(count, 'dead letter')}")
    return 0


def show_dead(options: surface.DeadShow) -> int:
    """`signedwire dead show`."""
    with _opened(options) as (store, identity):
        letter = store.show_dead(options.id).result()
    if letter is None:
        raise NotDone(f"there is no dead letter {options.id}", "See `signedwire dead list`")
    if options.json:
        emit(_letter_fields(letter, identity.did, with_payload=True))
    else:
        _show(letter, _fate(letter))
    return 0


def retry_dead(options: surface.DeadRetry) -> int:
    """`signedwire dead retry`."""
    with _opened(options) as (store, _):
        ids, done, missing = _chosen(options, _dead, store), [], []
        for id_ in ids:
            letter = store.show_dead(id_).result()
            if letter is None:
                missing.append(id_)
                continue
            _done(store, store.put, letter.recipient, [copy_of(letter)], replaces=[id_])
            done.append(id_)
    return _report(options, done, missing, "put back into the outbox:")


def drop_dead(options: surface.DeadDrop) -> int:
    """`signedwire dead drop`."""
    with _opened(options) as (store, _):
        ids = _chosen(options, _dead, store)
        there = [id_ for id_ in ids if store.show_dead(id_).result() is not None]
        store.drop_dead(there).result()
    return _report(options, there, [id_ for id_ in ids if id_ not in set(there)], "dropped")


# -- how they are shown -----------------------------------------------------------------


def _fields(kept: Kept, sender: Did, *, with_payload: bool) -> dict[str, object]:
    # The envelope has no signature yet; of its own store one needs none.
    unproven = SignedEnvelope(kept.body, MerklePath(0, 1, UNSIGNED))
    fields = envelope_fields(unproven, is_proven=False)
    fields["sender"] = str(sender)
    for name in ("is_proven", *(() if with_payload else ("payload", "encoding"))):
        del fields[name]
    return {"id": kept.id, "message_number": kept.message_number, **fields}


def _row_fields(row: OutgoingRow, sender: Did, *, with_payload: bool) -> dict[str, object]:
    return {
        **_fields(row, sender, with_payload=with_payload),
        "is_written": row.is_written,
        "attempts": row.attempts,
        "last_error": row.last_error,
    }


def _letter_fields(letter: DeadLetter, sender: Did, *, with_payload: bool) -> dict[str, object]:
    return {
        **_fields(letter, sender, with_payload=with_payload),
        "reason": str(letter.reason),
        "detail": letter.detail or None,
        "died_at_us": letter.died_at_us,
    }


def _line(kept: Kept) -> list[str]:
    return [
        f"{kept.id}",
        f"to {kept.recipient}",
        word(kept.priority),
        count_of(len(kept.payload), "byte"),
        f"queued {at_utc(kept.queued_at_us)}",
    ]


def _row_line(row: OutgoingRow) -> str:
    return "  ".join([*_line(row), _deadline(row), _why(row)])


def _letter_line(letter: DeadLetter) -> str:
    return "  ".join([*_line(letter), _fate(letter)])


def _deadline(kept: Kept) -> str:
    due = kept.expires_at_us
    return "no deadline" if due is None else f"until {at_utc(due)}"


def _why(row: OutgoingRow) -> str:
    if row.attempts and row.last_error:
        return f"{count_of(row.attempts, 'failed attempt')}: {escape(row.last_error)}"
    return "sent, not yet answered" if row.is_written else "not yet sent"


def _fate(letter: DeadLetter) -> str:
    detail = f" ({escape(letter.detail)})" if letter.detail else ""
    return f"{letter.reason}{detail} at {at_utc(letter.died_at_us)}"


def _show(kept: Kept, why: str) -> None:
    for name, value in (
        ("id", f"{kept.id}"),
        ("to", str(kept.recipient)),
        ("priority", word(kept.priority)),
        ("type", word(kept.payload_type)),
        ("size", count_of(len(kept.payload), "byte")),
        ("queued", at_utc(kept.queued_at_us)),
        ("deadline", _deadline(kept)),
        ("state", why),
        ("payload", payload_text(kept.payload)),
    ):
        result(f"{name:<9} {value}")
