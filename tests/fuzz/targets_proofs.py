"""Targets for what others check: envelopes, receipt proofs, evidence logs, files of `verify`."""

from __future__ import annotations

import contextlib
import io
import json
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from signedwire.cli.errors import BadFile
from signedwire.cli.formatting import envelope_fields
from signedwire.cli.verify_command import verify
from signedwire.delivery.message import IncomingMessage
from signedwire.errors import (
    DidError,
    EnvelopeError,
    EvidenceLogError,
    SignatureError,
)
from signedwire.evidence import chain as chain_module
from signedwire.evidence.chain import Chain, LogChecker, LogHeader, LogReader
from signedwire.evidence.log import EvidenceLog
from signedwire.types import Did, PayloadType, Priority
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.frames import encode_frame
from signedwire.wire.large import EnvelopeStream, ReceiptProofStream
from signedwire.wire.receipt_proof import verify_receipt

from .target import Target, expect_named, expect_same_error, file_with, folder
from .targets_kit import ALICE, ALONE, BATCHES, BOB, RECEIPT_PROOFS, sign

__all__ = ["SIGNED", "TARGETS", "UNSIGNED"]

_TIME_US: Final = 1_795_344_395_825_430

SIGNED: Final = frozenset(
    SignedEnvelope.sign(
        ALICE,
        BOB.did,
        payload,
        sequence_number=number,
        timestamp_us=_TIME_US,
        priority=Priority(number % 4),
        payload_type=PayloadType(number % 5),
    ).encode()
    for number, payload in enumerate([b"", b"hello", bytes(100), b"\n\0"], 1)
)
"""v1 envelopes that Alice signed."""
UNSIGNED: Final = SignedEnvelope.unsigned(
    ALICE.did, BOB.did, b"hi", sequence_number=9, timestamp_us=1
).encode()


# --- one envelope, one receipt proof ------------------------------------------------------------


def _in_pieces(stream: EnvelopeStream | ReceiptProofStream, data: bytes) -> None:
    for start in range(0, len(data), 77):
        stream.receive_data(data[start : start + 77])


def envelope(data: bytes) -> None:
    stream = EnvelopeStream(whole=0)
    _in_pieces(stream, data)
    try:
        decoded = SignedEnvelope.decode(data)
    except EnvelopeError as error:
        expect_same_error(error, stream.envelope)
        return
    large = stream.envelope()
    assert (large.digest, large.payload_size) == (decoded.digest, decoded.payload_size)
    assert large.body == decoded.body[: len(large.body)]
    assert large.signature == decoded.signature
    assert decoded.encode() == data
    assert decoded == SignedEnvelope.decode(bytearray(data))
    repr(decoded)
    hash(decoded)
    for name in ("sender", "recipient"):
        with contextlib.suppress(DidError):
            assert isinstance(getattr(decoded, name), Did)
    assert isinstance(decoded.priority, Priority)
    assert isinstance(decoded.payload_type, PayloadType)
    assert decoded.is_signed == any(decoded.signature)
    assert len(decoded.message_id) == 16
    parts = (decoded.version, decoded.sequence_number, decoded.timestamp_us)
    assert all(0 <= part < 2**64 for part in parts)
    assert len(decoded.digest) == 32
    path = decoded.merkle_path
    if path is not None:
        assert decoded.version == 9
        assert 0 <= path.index < path.count <= 256
        assert len(path.hashes) <= 30 * 32
        assert 0 <= (decoded.epoch or 0) < 2**64
        header_size = 126 + data[125] + 32 * (data[122] == 2)
        assert len(decoded.payload) == len(data) - header_size - len(path.encode())
    else:
        assert decoded.version not in (8, 9)
        assert decoded.epoch is decoded.expires_at_us is None
        assert len(decoded.payload) == len(data) - 170
    try:
        decoded.verify()
    except SignatureError:
        return
    assert data in SIGNED or data in ALONE, "a signature that nobody made"


def receipt_proof(data: bytes) -> None:
    stream = ReceiptProofStream(whole=0)
    _in_pieces(stream, data)
    try:
        delivery = verify_receipt(data)
    except (EnvelopeError, SignatureError) as error:
        expect_same_error(error, stream.delivery)
        return
    again = stream.delivery()
    for name in ("is_handled", "is_refused", "is_committed", "reason", "detail", "at_us"):
        assert getattr(again, name) == getattr(delivery, name)
    assert delivery.is_refused == (delivery.reason is not None)
    assert delivery.detail.isprintable()
    assert again.envelope.digest == delivery.envelope.digest
    assert data in RECEIPT_PROOFS, "a receipt proof that nobody made"
    assert delivery.envelope.encode() in data


# --- the evidence log -------------------------------------------------------------------


def _log() -> list[bytes]:
    """Return the header and the records of a log of Bob."""
    header = LogHeader(bytes(BOB.did), _TIME_US).encode()
    chain = Chain(header[-32:])
    return [
        header,
        *(
            chain.record(_TIME_US + number, SignedEnvelope.decode(each))
            for number, each in enumerate(sorted(SIGNED | ALONE))
        ),
    ]


_LOG: Final = _log()


_DIGESTS: Final = frozenset(SignedEnvelope.decode(each).digest for each in SIGNED | ALONE)


def _check(data: bytes, size: int) -> tuple[LogChecker, list[bytes]]:
    checker, found = LogChecker(), []
    for start in range(0, len(data), size):
        for checked in checker.receive_data(data[start : start + size]):
            assert checked.envelope.digest in _DIGESTS, "an envelope that nobody signed"
            assert checked.record.large or checked.record.envelope in SIGNED | ALONE
            found.append(checked.record.hash)
    checker.receive_eof()
    return checker, found


def evidence_log(data: bytes) -> None:
    """The first byte sets the sizes of the pieces and of a large record; results stay the same."""
    size, log = (data[0] * 7 or max(1, len(data))) if data else 1, data[1:]
    with patch.object(chain_module, "WHOLE", 100 + size):
        checker, found = _check(log, size)
    whole, found_whole = _check(log, max(1, len(log)))
    assert (found, checker.head, checker.error) == (found_whole, whole.head, whole.error)
    assert checker.count == len(found)
    assert checker.head == (found[-1] if found else checker.head)
    if checker.error is None:
        assert checker.reader.offset == len(log)
    else:
        assert 0 <= checker.error.offset <= len(log)
        assert len(checker.error.problem) < 400


def evidence_file(data: bytes) -> None:
    """A node opens such a file, adds a message, and finds it again."""
    for each in folder().glob("log*"):
        each.unlink()
    path = file_with(data, "log")
    reader = LogReader()
    reader.receive_data(data)
    reader.receive_eof()
    try:
        log = EvidenceLog(path, BOB.did, is_threaded=False)
    except EvidenceLogError as error:
        expect_named(error, path)
        assert path.read_bytes() == data
        return
    told: list[object] = []
    count = log.stats().head.records
    assert count == reader.count
    log.append([_MESSAGE], told.append)
    assert log.close()
    assert told == [None]
    written = path.read_bytes()
    assert written.startswith(data[: reader.offset])
    # Nothing that was cut off is lost.
    kept = b"".join(each.read_bytes() for each in folder().glob("log.torn-*"))
    assert data[: reader.offset] + kept == data or not reader.header
    again = EvidenceLog(path, BOB.did, is_threaded=False)
    assert again.stats().head.records == count + 1
    assert again.stats().torn == 0
    assert again.close()


_MESSAGE: Final = IncomingMessage(BATCHES[0][0], sign(BATCHES[0]))


# --- what `signedwire verify` reads -----------------------------------------------------

_SHOWN: Final = (
    "sender",
    "recipient",
    "sequence_number",
    "timestamp_us",
    "epoch",
    "expires_at_us",
    "priority",
    "payload_type",
    "payload",
    "size",
)


def _fields_of(data: bytes) -> dict[str, object]:
    return envelope_fields(SignedEnvelope.decode(data), is_proven=True)


_KNOWN: Final = frozenset(
    tuple(fields[name] for name in _SHOWN) for fields in map(_fields_of, SIGNED | ALONE)
)


def verify_file(data: bytes) -> None:
    """`signedwire verify --json` of such a file calls nothing valid that nobody signed."""
    path = file_with(data, "saved")
    stdout, stderr = io.StringIO(), io.StringIO()
    options: Any = SimpleNamespace(file=path, json=True)
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            code = verify(options)
        except BadFile as error:
            expect_named(error, path)
            return
        verdicts = [json.loads(line) for line in stdout.getvalue().splitlines()]
        assert verdicts
        assert code == (0 if all(verdict["is_valid"] for verdict in verdicts) else 1)
        options.json = False
        assert verify(options) == code
    for verdict in verdicts:
        if verdict["is_valid"]:
            assert tuple(verdict[name] for name in _SHOWN) in _KNOWN, "nobody signed that"
        else:
            assert verdict["problem"]
            assert verdict.get("sender") is None


def _json_line(data: bytes, **changes: object) -> bytes:
    """Return a line as `signedwire listen --json` prints it."""
    fields = {"event": "message", **_fields_of(data), "envelope": data.hex(), **changes}
    return json.dumps(fields).encode() + b"\n"


_ALL: Final = sorted(SIGNED | ALONE)
_EXPORT: Final = b"".join(each.hex().encode() + b"\n" for each in _ALL)
_LINES: Final = b"".join(_json_line(each) for each in _ALL[:3])

# --- seeds of the targets ---------------------------------------------------------------

_ENVELOPES: Final = (*_ALL, UNSIGNED, bytes(170))


def _spread(data: bytes, width: int = 60) -> bytes:
    text = data.hex().encode()
    return b"\n".join(text[at : at + width] for at in range(0, len(text), width))


TARGETS: Final = (
    Target(
        "envelope",
        envelope,
        _ENVELOPES,
        (b"INMO", b"\x08\0\0\0", bytes(8), b"\xff" * 8, bytes(64), bytes(32), b"\0\1", b"\1\0\2\0"),
    ),
    Target(
        "receipt-proof",
        receipt_proof,
        tuple(sorted(RECEIPT_PROOFS)),
        (b"SWPROOF2", b"\1\0\0\0\0\0\0\0\0\1\0", bytes(32), bytes(64), b"\xff\xff\xff\xff"),
    ),
    Target(
        "evidence-log",
        evidence_log,
        (
            b"\0" + b"".join(_LOG),
            b"\1" + b"".join(_LOG[:4]),
            b"\x14" + _LOG[0] + _LOG[2] + _LOG[1],
            b"\0" + _LOG[0],
            b"\0" + _LOG[0] + b"\0\0\1\x10",
        ),
        (b"SWCHAIN2", bytes(32), b"\xff\xff\xff\x0f", b"\xaa\0\0\0\1", b"\0\0\0\0"),
        9000,
    ),
    Target(
        "evidence-file",
        evidence_file,
        (
            *(b"".join(_LOG[:4]), b"".join(_LOG[1:4]), b"".join(_LOG)[:-5]),
            *(_LOG[0], b"", bytes(112), b"SWCH", b"other"),
        ),
        (b"SWCHAIN2", bytes(32), b"\xff\xff\xff\x0f", b"\xaa\0\0\0\1", b"\0\0\0\0"),
        3000,
    ),
    Target(
        "verify-file",
        verify_file,
        (
            _EXPORT,
            _LINES,
            b'{"event": "listening"}\n\n' + _json_line(_ALL[0], sequence_number=7) + b'{"event',
            b"".join(map(encode_frame, _ALL[:3])) + b"\0\0\0\0",
            *_ALL[:2],
            min(RECEIPT_PROOFS),
            _spread(min(RECEIPT_PROOFS)),
            _spread(encode_frame(_ALL[0]) * 2),
            _spread(_ALL[1]) + b"\r\n\r\n",
            b"\n".join(each.hex().encode() for each in sorted(RECEIPT_PROOFS)[:2]),
            b"49\n" * 100,
            b"4\n9\n" * 20,
        ),
        (
            b"\n",
            b"\r",
            b"49",
            b"494e4d4f",
            b"5357",
            b"SWPROOF2",
            b"INMO",
            b"{",
            b'"envelope"',
            b" ",
        ),
        9000,
    ),
)
