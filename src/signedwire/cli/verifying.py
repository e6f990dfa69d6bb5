"""`signedwire verify`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from signedwire.cli.errors import FAILED, BadInput
from signedwire.cli.output import emit, escape, paint, result, say, standard_input
from signedwire.cli.render import (
    UNPROVEN,
    at_utc,
    can_decode,
    decoded_fields,
    envelope_fields,
    recipient_text,
)
from signedwire.errors import EnvelopeError, SignatureError
from signedwire.wire.envelope import MAGIC, SignedEnvelope
from signedwire.wire.evidence import MAGIC as PROOF_MAGIC
from signedwire.wire.evidence import ProvenDelivery, verify_receipt
from signedwire.wire.frames import FrameDecoder

if TYPE_CHECKING:
    from signedwire.cli.surface import Verify

__all__ = ["verify"]

_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
_STARTS: Final = (_MAGIC_BYTES, PROOF_MAGIC)
_MAX_FRAME_SIZE: Final = 2**24 - 1


class _Found(NamedTuple):
    """Something that should be an envelope, or a proof of delivery."""

    where: str
    data: bytes
    claims: dict[str, object] | None = None
    """What the line around it says."""
    problem: str = ""
    """Why there are no bytes to look at."""


class _Verdict(NamedTuple):
    found: _Found
    envelope: SignedEnvelope | None
    problem: str
    """Why it is invalid; empty: it is valid."""
    delivery: ProvenDelivery | None = None
    """What a valid proof of delivery proves."""


def verify(options: Verify) -> int:
    """Check every envelope and every proof in the file; 1 if one is invalid."""
    data = _read(options.file)
    count = failures = 0
    for found in _find(data):
        verdict = _judge(found)
        count += 1
        failures += bool(verdict.problem)
        if options.json:
            emit(_fields(verdict))
        else:
            result(_line(verdict))
    if not count:
        raise BadInput(
            f"there is no envelope in {options.file}",
            "It takes proofs of delivery, raw or hex envelopes, v1 frames, or what "
            "`signedwire listen --json` printed",
        )
    if not options.json:
        say(f"{count - failures} valid, {failures} invalid")
    return FAILED if failures else 0


def _read(name: str) -> bytes:
    if name == "-":
        return standard_input().buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise BadInput(
            f"cannot read {name}: {error.strerror}", "Does the file exist, and may you read it?"
        ) from None


# -- what there is ------------------------------------------------------------------


def _find(data: bytes) -> Iterator[_Found]:
    """Everything that looks like an envelope, or stands where one should."""
    if data.startswith(PROOF_MAGIC):
        yield _Found("proof", data)
    elif data.startswith(_MAGIC_BYTES):
        yield _Found("envelope", data)
    elif data.startswith(b"\0"):
        yield from _in_frames(data)
    else:
        yield from _in_text(data)


def _in_frames(data: bytes) -> Iterator[_Found]:
    decoder = FrameDecoder(_MAX_FRAME_SIZE)
    number = 0
    for number, frame in enumerate(decoder.receive_data(data), 1):
        yield _Found(f"frame {number}", frame)
    decoder.receive_eof()
    if decoder.error is not None and number:
        yield _Found(f"frame {number + 1}", b"", problem=decoder.error.fact)


def _in_text(data: bytes) -> Iterator[_Found]:
    lines = [(n, line) for n, line in enumerate(data.splitlines(), 1) if line.strip()]
    if any(line.lstrip().startswith(b"{") for _, line in lines):
        for number, line in lines:
            yield from _in_json(f"line {number}", line)
        return
    decoded = [(number, _unhex(line)) for number, line in lines]
    if not any(part for _, part in decoded):
        return
    if sum(part is not None and part.startswith(_STARTS) for _, part in decoded) > 1:
        for number, part in decoded:
            problem = "" if part is not None else "not hex digits"
            yield _Found(f"line {number}", part or b"", problem=problem)
        return
    # One thing over several lines, as `xxd -p` prints it.
    whole = _unhex(b"".join(line for _, line in lines))
    if whole is not None and whole[:1] in (_MAGIC_BYTES[:1], PROOF_MAGIC[:1], b"\0"):
        yield from _find(whole)


def _in_json(where: str, line: bytes) -> Iterator[_Found]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        yield _Found(where, b"", problem="not JSON; was the end cut off?")
        return
    if not isinstance(value, dict) or value.get("event") in ("listening", "summary"):
        return
    text = value.get("envelope")
    envelope = _unhex(text.encode("ascii", "replace")) if isinstance(text, str) else None
    problem = "" if envelope is not None else 'no "envelope" in hex digits'
    yield _Found(where, envelope or b"", value, problem)


def _unhex(text: bytes) -> bytes | None:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return None


# -- what it is worth ---------------------------------------------------------------


def _judge(found: _Found) -> _Verdict:
    if found.problem:
        return _Verdict(found, None, found.problem)
    if found.data.startswith(PROOF_MAGIC):
        return _judge_proof(found)
    try:
        envelope = SignedEnvelope.decode(found.data)
    except EnvelopeError as error:
        return _Verdict(found, None, error.fact)
    try:
        envelope.verify()
    except SignatureError as error:
        return _Verdict(found, envelope, error.fact)
    if found.claims is not None:
        actual = envelope_fields(envelope, is_proven=True)
        if can_decode():
            actual["decoded"] = decoded_fields(envelope.payload)
        for name, claimed in found.claims.items():
            if name in actual and claimed != actual[name]:
                problem = f"the line was changed: its {name} is not that of the envelope"
                return _Verdict(found, envelope, problem)
    return _Verdict(found, envelope, "")


def _judge_proof(found: _Found) -> _Verdict:
    try:
        delivery = verify_receipt(found.data)
    except (EnvelopeError, SignatureError) as error:
        return _Verdict(found, None, error.fact)
    return _Verdict(found, delivery.envelope, "", delivery)


def _fields(verdict: _Verdict) -> dict[str, object]:
    is_valid = not verdict.problem
    fields: dict[str, object] = {
        "where": verdict.found.where,
        "is_valid": is_valid,
        "problem": verdict.problem or None,
    }
    if verdict.envelope is not None:
        fields |= envelope_fields(verdict.envelope, is_proven=is_valid)
    if verdict.delivery is not None:
        fields["delivery"] = _outcome(verdict.delivery)
        fields["delivered_at_us"] = verdict.delivery.at_us
    return fields


def _line(verdict: _Verdict) -> str:
    is_valid = not verdict.problem
    mark = paint("valid  ", "green") if is_valid else paint("invalid", "red")
    parts = [mark, verdict.found.where]
    envelope = verdict.envelope
    if envelope is not None:
        # In full: twelve characters of a DID can be imitated.
        sender = str(envelope.sender) if is_valid else UNPROVEN
        parts += [
            f"from {sender}",
            f"to {recipient_text(envelope)}",
            f"#{envelope.sequence_number}",
            at_utc(envelope.timestamp_us),
            f"{len(envelope.payload)} bytes",
        ]
    delivery = verdict.delivery
    if delivery is not None:
        recipient = recipient_text(delivery.envelope)
        parts.append(f"{_outcome(delivery)} by {recipient} at {at_utc(delivery.at_us)}")
    if not is_valid:
        parts.append(escape(verdict.problem))
    return "  ".join(parts)


def _outcome(delivery: ProvenDelivery) -> str:
    return "handled" if delivery.is_handled else "accepted"
