"""`signedwire verify`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from signedwire.cli.envelope_files import MAX_JSON, Found, find, first_bytes
from signedwire.cli.errors import BadFile
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.file_options import VerifyOptions
from signedwire.cli.formatting import (
    MAX_DECODED,
    UNPROVEN,
    at_utc,
    can_decode,
    count_of,
    decoded_fields,
    envelope_fields,
    quoted,
    recipient_text,
)
from signedwire.cli.input_files import open_input
from signedwire.cli.option_values import word
from signedwire.cli.output import emit, escape, paint, result_as_is, say, standard_input
from signedwire.cli.text_lines import NOT_HEX
from signedwire.errors import EnvelopeError, SignatureError
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.large import WHOLE, EnvelopeStream, ReceiptProofStream
from signedwire.wire.receipt_proof import MAGIC as RECEIPT_PROOF_MAGIC
from signedwire.wire.receipt_proof import ProvenDelivery

__all__ = ["verify"]

_MAX_INVALID: Final = 100_000
"""Checking stops after this number of invalid parts, because it would take hours."""
_TOO_MANY: Final = (
    f"neither this nor what is behind it was checked: {_MAX_INVALID} before it are invalid"
)


class _Verdict(NamedTuple):
    where: str
    envelope: SignedEnvelope | None
    problem: str
    """Why it is invalid; empty: it is valid."""
    delivery: ProvenDelivery | None = None
    """The delivery or the refusal that a valid proof proves."""


def verify(options: VerifyOptions) -> int:
    """Check every envelope and every proof in the file; 1 if one is invalid.

    This takes at most about 50 MiB of memory, beside those of the program itself, and a time
    that is proportional to the size of the file.
    """
    count = failures = 0
    with _opened(options.file) as file:
        for found in find(file):
            verdict = _judge(found)
            count += 1
            failures += bool(verdict.problem)
            if failures > _MAX_INVALID:
                verdict = _Verdict(found.where, None, _TOO_MANY)
            if options.json:
                emit(_fields(verdict))
            else:
                result_as_is(_line(verdict))
            if failures > _MAX_INVALID:
                break
    if not count:
        raise BadFile(
            f"there is no envelope in {options.file}",
            "Give a file with receipt proofs, raw or hex envelopes, v1 frames, or the output "
            "of `signedwire listen --json`",
        )
    if not options.json:
        say(f"{count - failures} valid, {failures} invalid")
    return ExitCode.FAILED if failures else 0


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path == Path("-"):
        yield standard_input().buffer
        return
    with open_input(path) as file:
        yield file


def _judge(found: Found) -> _Verdict:
    where = found.where
    if found.problem:
        return _Verdict(where, None, found.problem)
    try:
        start = first_bytes(found.pieces)
        stream: ReceiptProofStream | EnvelopeStream
        if start.startswith(RECEIPT_PROOF_MAGIC):
            stream = ReceiptProofStream()
        else:
            # The payload is kept if the line around it repeats it, to compare the two.
            stream = EnvelopeStream(whole=WHOLE if found.claims is None else MAX_JSON)
        stream.receive_data(start)
        for piece in found.pieces:
            stream.receive_data(piece)
            if stream.is_too_long:
                return _Verdict(where, None, "it is longer than any envelope")
    except ValueError:
        return _Verdict(where, None, NOT_HEX)
    if isinstance(stream, ReceiptProofStream):
        return _judge_proof(where, stream)
    try:
        envelope = stream.envelope()
    except EnvelopeError as error:
        return _Verdict(where, None, error.fact)
    try:
        envelope.verify()
    except SignatureError as error:
        return _Verdict(where, envelope, error.fact)
    return _Verdict(where, envelope, _contradiction(found.claims or {}, envelope))


def _contradiction(claims: dict[str, object], envelope: SignedEnvelope) -> str:
    """Return how the line around an envelope contradicts it; empty: it does not."""
    if not claims:
        return ""
    actual = envelope_fields(envelope, is_proven=True)
    if can_decode() and envelope.payload_size <= MAX_DECODED:
        actual["decoded"] = decoded_fields(envelope.payload)
    for name, claimed in claims.items():
        if name in actual and claimed != actual[name]:
            return f"the line was changed: its {name} is not that of the envelope"
    return ""


def _judge_proof(where: str, stream: ReceiptProofStream) -> _Verdict:
    try:
        delivery = stream.delivery()
    except (EnvelopeError, SignatureError) as error:
        return _Verdict(where, None, error.fact)
    return _Verdict(where, delivery.envelope, "", delivery)


def _fields(verdict: _Verdict) -> dict[str, object]:
    is_valid = not verdict.problem
    fields: dict[str, object] = {
        "where": verdict.where,
        "is_valid": is_valid,
        "problem": verdict.problem or None,
    }
    if verdict.envelope is not None:
        fields |= envelope_fields(verdict.envelope, is_proven=is_valid)
    if verdict.delivery is not None:
        fields |= _delivery_fields(verdict.delivery)
    return fields


def _line(verdict: _Verdict) -> str:
    is_valid = not verdict.problem
    mark = paint("valid  ", "green") if is_valid else paint("invalid", "red")
    parts = [mark, verdict.where]
    envelope = verdict.envelope
    if envelope is not None:
        # The whole DID: its first twelve characters can be imitated.
        sender = str(envelope.sender) if is_valid else UNPROVEN
        parts += [
            f"from {sender}",
            f"to {recipient_text(envelope)}",
            envelope.message_id.hex()[:8],
            at_utc(envelope.timestamp_us),
            *_what_it_is(envelope),
            count_of(envelope.payload_size, "byte"),
        ]
    delivery = verdict.delivery
    if delivery is not None:
        recipient = recipient_text(delivery.envelope)
        parts.append(
            f"{_outcome(delivery)} by {recipient} at {at_utc(delivery.at_us)}{_more(delivery)}"
        )
    if not is_valid:
        parts.append(escape(verdict.problem))
    return "  ".join(parts)


def _what_it_is(envelope: SignedEnvelope) -> list[str]:
    """Return the kind, the durability and the subject of an envelope; v1 has none of them."""
    if envelope.epoch is None:
        return []
    parts = [word(envelope.kind), "durable" if envelope.durable else "volatile"]
    # In quotes: a subject may look like the fields around it.
    return [*parts, f"subject {quoted(envelope.subject)}"] if envelope.subject else parts


def _delivery_fields(delivery: ProvenDelivery) -> dict[str, object]:
    fields: dict[str, object] = {"delivery": _outcome(delivery), "delivered_at_us": delivery.at_us}
    if delivery.is_refused:
        del fields["delivered_at_us"]
        return fields | {
            "refused_at_us": delivery.at_us,
            "reason": delivery.reason,
            "detail": delivery.detail,
        }
    return fields | {"is_committed": delivery.is_committed}


def _outcome(delivery: ProvenDelivery) -> str:
    if delivery.is_refused:
        return "refused"
    return "handled" if delivery.is_handled else "accepted"


def _more(delivery: ProvenDelivery) -> str:
    """Return why an envelope was refused, or whether a store had committed it."""
    if not delivery.is_refused:
        return ", committed" if delivery.is_committed else ", not committed"
    detail = f" ({escape(delivery.detail)})" if delivery.detail else ""
    return f": {delivery.reason}{detail}"
