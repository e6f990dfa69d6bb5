"""`signedwire outbox`: works on the file of a store while no node has it open."""

from __future__ import annotations

from collections.abc import Iterator

from signedwire.cli.errors import BadFile, NotDone
from signedwire.cli.formatting import count_of
from signedwire.cli.output import emit, escape, result, say
from signedwire.cli.store_options import (
    OutboxDropOptions,
    OutboxExportOptions,
    OutboxListOptions,
    OutboxRetryOptions,
    OutboxShowOptions,
)
from signedwire.cli.stored_messages import (
    PAGE,
    commit,
    deadline_text,
    fields_of,
    find_named,
    line_of,
    opened,
    print_message,
    print_result,
    recipient_of,
    selected,
)
from signedwire.delivery.store import OutgoingRow, Store
from signedwire.outbox import export
from signedwire.types import Did

__all__ = ["drop", "export_messages", "list_messages", "retry", "show"]


def list_messages(options: OutboxListOptions) -> int:
    """List the messages that wait to be sent."""
    with opened(options) as (store, identity):
        count = 0
        for row in _rows(store, recipient_of(options)):
            if count == options.limit:
                break
            count += 1
            if options.json:
                emit(_fields(row, identity.did, with_payload=False))
            else:
                result(
                    "  ".join(
                        [*line_of(row, options.names), deadline_text(row), _why_it_waits(row)]
                    )
                )
        backlog, dead = store.backlog(recipient_of(options)), store.stats().dead
    if not options.json:
        more = f", {count} shown" if count < backlog.rows else ""
        also = f"; {count_of(dead.rows, 'dead letter')}" if dead.rows else ""
        say(f"{count_of(backlog.rows, 'message')} waiting{more}, {backlog.bytes} bytes{also}")
    return 0


def show(options: OutboxShowOptions) -> int:
    """Show one message that waits."""
    with opened(options) as (store, identity):
        ids = find_named([options.id], store, _rows, _row).ids
        row = _row(store, ids[0]) if ids else None
    if row is None:
        raise NotDone(f"no message {options.id} waits", "See `signedwire outbox list`")
    if options.json:
        emit(_fields(row, identity.did, with_payload=True))
    else:
        print_message(row, _why_it_waits(row), options.names)
    return 0


def retry(options: OutboxRetryOptions) -> int:
    """Reset the failed attempts of peers."""
    with opened(options) as (store, _):
        did = recipient_of(options)
        peers = [each for each in store.recipients() if did in (None, each)]
        for each in peers:
            store.reset_attempts(each)
        commit(store, store.barrier)
    if options.json:
        emit({"dids": [str(each) for each in peers]})
        return 0
    result(f"{count_of(len(peers), 'peer')} will be tried again")
    if peers:
        say("they are tried by the next `signedwire send` or `signedwire listen --peers FILE`")
    return 0


def drop(options: OutboxDropOptions) -> int:
    """Remove messages."""
    with opened(options) as (store, _):
        selection = selected(options, store, _rows, _row)
        store.drop(selection.ids).result()
    return print_result(options, selection, "dropped")


def export_messages(options: OutboxExportOptions) -> int:
    """Write the messages as envelopes in hex."""
    with opened(options) as (store, identity):
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


def _rows(store: Store, did: Did | None) -> Iterator[OutgoingRow]:
    after = 0
    while rows := store.outbox(did, after=after, limit=PAGE).result():
        yield from rows
        after = rows[-1].id


def _row(store: Store, number: int) -> OutgoingRow | None:
    return store.show(number).result()


def _fields(row: OutgoingRow, sender: Did, *, with_payload: bool) -> dict[str, object]:
    return {
        **fields_of(row, sender, with_payload=with_payload),
        "is_written": row.is_written,
        "attempts": row.attempts,
        "last_error": row.last_error,
    }


def _why_it_waits(row: OutgoingRow) -> str:
    if row.attempts and row.last_error:
        return f"{count_of(row.attempts, 'failed attempt')}: {escape(row.last_error)}"
    return "sent, not yet answered" if row.is_written else "not yet sent"
