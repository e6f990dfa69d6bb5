"""Stored messages, as the `outbox` and `dead` commands open, select and show them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, TypeAlias

from signedwire.cli import keys
from signedwire.cli.common_options import StoreFileOptions
from signedwire.cli.errors import BadInput, NotDone
from signedwire.cli.formatting import at_utc, count_of, envelope_fields, payload_text
from signedwire.cli.option_values import word
from signedwire.cli.output import emit, escape, result
from signedwire.cli.store_choice import lock_of, open_file
from signedwire.cli.store_options import ListOptions, OutboxRetryOptions, SelectionOptions
from signedwire.delivery.store import DeadLetter, OutgoingRow, Store
from signedwire.errors import StoreError
from signedwire.identity import Identity
from signedwire.names import Names
from signedwire.types import Did
from signedwire.wire.envelope import UNSIGNED, MerklePath, SignedEnvelope

__all__ = [
    "PAGE",
    "OpenStore",
    "Selection",
    "StoredMessage",
    "commit",
    "deadline_text",
    "fields_of",
    "find_named",
    "line_of",
    "opened",
    "print_message",
    "print_result",
    "recipient_of",
    "selected",
]

StoredMessage: TypeAlias = OutgoingRow | DeadLetter

AllOf: TypeAlias = Callable[[Store, Did | None], Iterator[Any]]
OneOf: TypeAlias = Callable[[Store, int], StoredMessage | None]

PAGE: Final = 500
"""Messages that are read from a store at once."""
SHORT_ID: Final = 8
"""Digits of a message id that texts show."""
_MAX_NUMBER: Final = 2**63 - 1
_MAX_SHOWN: Final = 10
"""Messages that are listed if one name is that of several."""


class OpenStore(NamedTuple):
    """A store and the identity that it belongs to."""

    store: Store
    identity: Identity


class Selection(NamedTuple):
    """The messages that the IDs of a command name."""

    ids: list[int]
    """The numbers of the messages, in the order in which they were named."""
    missing: list[int | str]
    """The numbers, and the starts of message ids, of which there is no message."""


@contextlib.contextmanager
def opened(options: StoreFileOptions) -> Iterator[OpenStore]:
    """Open the store of a command, and close it at the end.

    Raises:
        BadFile: there is no such file.
        StoreOpenError: the file cannot be used, or a node is using it.
        IdentityError: the key cannot be loaded.
    """
    identity = keys.load(options)
    with lock_of(identity.did):
        store = open_file(options, identity.did, options.settings.config())
        try:
            yield OpenStore(store, identity)
        finally:
            store.close()


def commit(store: Store, submit: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Submit a change, and raise if its commit failed.

    Args:
        store: The store.
        submit: The method of the store that makes the change.
        arguments: Its arguments.
        options: Its named arguments.

    Raises:
        StoreError: the commit failed.
    """
    errors: list[StoreError | None] = []
    submit(*arguments, **options, on_commit=errors.append)
    if errors and errors[0] is not None:
        raise errors[0]
    if store.failure is not None:
        raise store.failure


def recipient_of(options: ListOptions | SelectionOptions | OutboxRetryOptions) -> Did | None:
    """Return the DID of --to, which may be a name; `None`: all recipients.

    Raises:
        DidError: the text is neither a DID nor a known name.
    """
    return None if options.to is None else options.names.did_of(options.to)


def selected(options: SelectionOptions, store: Store, all_of: AllOf, one_of: OneOf) -> Selection:
    """Return the messages that the options select.

    Args:
        options: The options of the command.
        store: The store.
        all_of: Yields the messages of the store to the DID of --to, or all.
        one_of: Returns the message with this number; `None`: there is none.

    Raises:
        BadInput: the options select nothing, or in several ways; or a name is that of several
            messages.
    """
    ways = (bool(options.ids), options.to is not None, options.all)
    if sum(ways) != 1:
        raise BadInput(
            "which messages?" if not any(ways) else "IDs, --to and --all exclude each other",
            "Give IDs as `list` shows them, or --to DID, or --all",
        )
    if options.ids:
        return find_named(options.ids, store, all_of, one_of)
    return Selection([message.id for message in all_of(store, recipient_of(options))], [])


def find_named(names: list[str], store: Store, all_of: AllOf, one_of: OneOf) -> Selection:
    """Find messages by their number, or by the start of their message id.

    Args:
        names: What was given for each, as `read_message_name()` returned it.
        store: The store.
        all_of: As in `selected()`.
        one_of: As in `selected()`.

    Raises:
        BadInput: a name is that of several messages.
    """
    found: dict[int, None] = {}  # in this order, and each once
    missing: dict[int | str, None] = {}
    starting = _starting_with([name for name in names if len(name) >= SHORT_ID], store, all_of)
    for name in names:
        matches = dict(starting.get(name, {}))
        number = int(name) if name.isdigit() else None
        if number is not None and number <= _MAX_NUMBER:
            message = one_of(store, number)
            if message is not None:
                matches[number] = message.message_id
        if len(matches) > 1:
            raise BadInput(
                f"{name} is the name of {len(matches)} messages: {_names_of(matches)}",
                "Nothing was changed. Give more digits of the message id",
            )
        if matches:
            found.update(dict.fromkeys(matches))
        else:
            missing[name if number is None else number] = None
    return Selection(list(found), list(missing))


def _starting_with(starts: list[str], store: Store, all_of: AllOf) -> dict[str, dict[int, str]]:
    """Return number and message id of the messages whose id begins with one of `starts`."""
    matches: dict[str, dict[int, str]] = {start: {} for start in starts}
    for message in all_of(store, None) if starts else ():
        for start in starts:
            if message.message_id.startswith(start):
                matches[start][message.id] = message.message_id
    return matches


def _names_of(matches: dict[int, str]) -> str:
    shown = [f"{id_} (number {number})" for number, id_ in matches.items()][:_MAX_SHOWN]
    left = len(matches) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def print_result(options: StoreFileOptions, selection: Selection, what: str) -> int:
    """Print which messages were changed, and return the exit code.

    Args:
        options: The options of the command.
        selection: The messages that were changed, and the names that are those of none.
        what: What was done, such as "dropped".

    Raises:
        NotDone: there is no message of a name.
    """
    done, missing = selection
    if options.json:
        emit({"ids": done, "missing": missing})
    else:
        result(f"{what} {count_of(len(done), 'message')}")
    if missing:
        raise NotDone(
            f"there is no message {', '.join(map(str, missing))}", "See `list` for what there is"
        )
    return 0


# -- formats ----------------------------------------------------------------------------


def fields_of(message: StoredMessage, sender: Did, *, with_payload: bool) -> dict[str, object]:
    """Return the fields of a message for JSON."""
    # The envelope has no proof yet; a message of one's own store needs none.
    unproven = SignedEnvelope(message.body, MerklePath(0, 1, UNSIGNED))
    fields = envelope_fields(unproven, is_proven=False)
    fields["sender"] = str(sender)
    for name in ("is_proven", *(() if with_payload else ("payload", "encoding"))):
        del fields[name]
    return {"id": message.id, **fields}


def line_of(message: StoredMessage, names: Names) -> list[str]:
    """Return the columns of a message in a list."""
    return [
        f"{message.id}",
        message.message_id[:SHORT_ID],
        f"to {names.in_words(message.recipient)}",
        word(message.priority),
        count_of(len(message.payload), "byte"),
        f"queued {at_utc(message.queued_at_us)}",
    ]


def deadline_text(message: StoredMessage) -> str:
    """Return the deadline of a message as text."""
    due = message.expires_at_us
    return "no deadline" if due is None else f"until {at_utc(due)}"


def print_message(message: StoredMessage, state: str, names: Names) -> None:
    """Print one message with its payload.

    Args:
        message: The message.
        state: Why it waits, or what became of it.
        names: The names of DIDs.
    """
    for name, value in (
        ("id", f"{message.id}"),
        ("message", message.message_id),
        ("to", str(names.in_words(message.recipient))),
        ("priority", word(message.priority)),
        ("type", word(message.payload_type)),
        *((("subject", escape(message.subject)),) if message.subject else ()),
        ("size", count_of(len(message.payload), "byte")),
        ("queued", at_utc(message.queued_at_us)),
        ("deadline", deadline_text(message)),
        ("state", state),
        ("payload", payload_text(message.payload)),
    ):
        result(f"{name:<9} {value}")
