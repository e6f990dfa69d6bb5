"""`signedwire dead`: works on the file of a store while no node has it open."""

from __future__ import annotations

from collections.abc import Iterator

from signedwire.cli.errors import NotDone
from signedwire.cli.formatting import at_utc, count_of
from signedwire.cli.output import emit, escape, result, say
from signedwire.cli.store_options import (
    DeadDropOptions,
    DeadListOptions,
    DeadRetryOptions,
    DeadShowOptions,
)
from signedwire.cli.stored_messages import (
    PAGE,
    commit,
    fields_of,
    find_named,
    line_of,
    opened,
    print_message,
    print_result,
    recipient_of,
    selected,
)
from signedwire.delivery.message_restorer import copy_of
from signedwire.delivery.store import DeadLetter, Store
from signedwire.types import Did

__all__ = ["drop", "list_letters", "retry", "show"]


def list_letters(options: DeadListOptions) -> int:
    """List the messages that were refused or given up."""
    with opened(options) as (store, identity):
        count = 0
        for letter in _letters(store, recipient_of(options)):
            if count == options.limit:
                break
            count += 1
            if options.json:
                emit(_fields(letter, identity.did, with_payload=False))
            else:
                result("  ".join([*line_of(letter, options.names), _fate(letter)]))
    if not options.json:
        say(f"{count_of(count, 'dead letter')}")
    return 0


def show(options: DeadShowOptions) -> int:
    """Show one dead letter."""
    with opened(options) as (store, identity):
        ids = find_named([options.id], store, _letters, _letter).ids
        letter = _letter(store, ids[0]) if ids else None
    if letter is None:
        raise NotDone(f"there is no dead letter {options.id}", "See `signedwire dead list`")
    if options.json:
        emit(_fields(letter, identity.did, with_payload=True))
    else:
        print_message(letter, _fate(letter), options.names)
    return 0


def retry(options: DeadRetryOptions) -> int:
    """Put the payloads of dead letters back into the outbox, as new messages."""
    with opened(options) as (store, _):
        selection = selected(options, store, _letters, _letter)
        letters = [letter for number in selection.ids if (letter := _letter(store, number))]
        copies = [copy_of(letter) for letter in letters]  # first, as one may be a request
        for letter, copy in zip(letters, copies, strict=True):
            commit(store, store.put, letter.recipient, [copy], replaces=[letter.id])
    return print_result(options, selection, "put back into the outbox:")


def drop(options: DeadDropOptions) -> int:
    """Remove dead letters."""
    with opened(options) as (store, _):
        selection = selected(options, store, _letters, _letter)
        store.drop_dead(selection.ids).result()
    return print_result(options, selection, "dropped")


def _letters(store: Store, did: Did | None) -> Iterator[DeadLetter]:
    after = 0
    while letters := store.dead_letters(did, after=after, limit=PAGE).result():
        yield from letters
        after = letters[-1].id


def _letter(store: Store, number: int) -> DeadLetter | None:
    return store.show_dead(number).result()


def _fields(letter: DeadLetter, sender: Did, *, with_payload: bool) -> dict[str, object]:
    return {
        **fields_of(letter, sender, with_payload=with_payload),
        "reason": str(letter.reason),
        "detail": letter.detail or None,
        "died_at_us": letter.died_at_us,
    }


def _fate(letter: DeadLetter) -> str:
    detail = f" ({escape(letter.detail)})" if letter.detail else ""
    return f"{letter.reason}{detail} at {at_utc(letter.died_at_us)}"
