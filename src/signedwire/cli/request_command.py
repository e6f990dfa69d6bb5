"""`signedwire request`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from signedwire.cli import keys
from signedwire.cli.addresses import find_route, no_address
from signedwire.cli.errors import BadFile, BadInput, NotDone
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.formatting import envelope_fields, payload_text
from signedwire.cli.output import emit, result, standard_input
from signedwire.cli.request_options import RequestOptions
from signedwire.cli.store_choice import choose, lock_of, prepare
from signedwire.errors import StoreInUseError
from signedwire.sync import Node

__all__ = ["request"]

_ANOTHER_KEY: Final = (
    "A node runs with this key, and a second one would disturb its links: ask with a key of its "
    "own, which `signedwire id new FILE` makes, and --identity FILE"
)


def request(options: RequestOptions) -> int:
    """Send one request, and print its reply."""
    if options.text is not None and options.file is not None:
        raise BadInput("TEXT and --file exclude each other", "Give one of them")
    config = options.load_config().replace(listen=None, evidence=None)
    did, routing = find_route(options.to, options, config.fallback)
    if routing.resolve(did) is None:
        raise no_address(did, options)
    identity = keys.load_or_create(options)
    payload = _payload(options)

    def make(path: Path | None) -> Node:
        return Node(identity, config.replace(store=path), routing)

    chosen = choose(options, identity.did)
    with lock_of(identity.did, options.timeout):
        prepare(chosen)
        try:
            node = make(chosen.path)
        except StoreInUseError as error:
            # Its peers would take the link of this command for that of the other node.
            raise NotDone(error.fact, _ANOTHER_KEY, ExitCode.STORE) from None
        with node:
            reply = node.request(
                did,
                payload,
                subject=options.subject,
                timeout=options.timeout,
                priority=options.priority,
            )
    if options.json:
        emit(
            {
                "event": "reply",
                **envelope_fields(reply.envelope, is_proven=True),
                "envelope": reply.envelope.encode().hex(),
            }
        )
    else:
        result(payload_text(reply.payload))
    return ExitCode.DONE


def _payload(options: RequestOptions) -> bytes:
    if options.text == "-":
        return standard_input().buffer.read()
    if options.file is None:
        # surrogateescape gives back the bytes that were typed.
        return (options.text or "").encode("utf-8", "surrogateescape")
    try:
        return options.file.read_bytes()
    except OSError as error:
        raise BadFile(
            f"cannot read {options.file}: {error.strerror}",
            "Does the file exist, and may you read it?",
        ) from None
