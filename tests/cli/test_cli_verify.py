"""`signedwire verify`: every form in which an envelope is saved, and every way to be wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from clikit import Ran, expect_one_sentence, isolate, run

from bodykit import encode_v2_body
from idkit import id_of
from signedwire import Identity, Kind, SignedEnvelope, TransportConfig, payloads
from signedwire.cli.formatting import decoded_fields, envelope_fields
from signedwire.errors import MessageRefusedError
from signedwire.sync import Node
from signedwire.wire.envelope import MerklePath, sign_batch
from signedwire.wire.frames import encode_frame

DOCS = Path(__file__).resolve().parents[2] / "docs"
LIMIT = 10.0
ALICE, BOB = Identity.from_seed(bytes(range(32))), Identity.from_seed(bytes(32))


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


def envelope(number: int = 1, payload: bytes = b"hello") -> SignedEnvelope:
    return SignedEnvelope.sign(
        ALICE, BOB.did, payload, sequence_number=number, message_id=id_of(number)
    )


def json_line(saved: SignedEnvelope, **changes: object) -> str:
    """A line as `listen --json` prints it."""
    fields = {
        "event": "message",
        "received_at_us": 1_767_225_600_000_000,
        **envelope_fields(saved, is_proven=saved.is_signed),
        "decoded": decoded_fields(saved.payload),
        "envelope": saved.encode().hex(),
    }
    return json.dumps({**fields, **changes})


def verify_bytes(folder: Path, data: bytes, *args: str) -> Ran:
    path = folder / "saved"
    path.write_bytes(data)
    return run("verify", path, *args)


def wrapped(text: str) -> bytes:
    return "\n".join(text[at : at + 60] for at in range(0, len(text), 60)).encode()


def v2_envelope(index: int = 1, **fields: Any) -> SignedEnvelope:
    """One of three that were signed together."""
    bodies = [
        encode_v2_body(
            bytes(ALICE.did) + bytes(BOB.did),
            b"hello",
            message_id=id_of(number),
            sequence_number=number,
            timestamp_us=1,
            priority=1,
            payload_type=0,
            epoch=9,
            expires_at_us=0,
            **fields,
        )
        for number in (1, 2, 3)
    ]
    _, signature, leaves = sign_batch(ALICE, bodies)
    return SignedEnvelope(bodies[index], MerklePath(index, 3, signature, leaves=leaves))


ONE, TWO = envelope(1), envelope(2, b"x" * 100)
FORMS = {
    "raw": (ONE.encode(), 1),
    "raw, v2": (v2_envelope(0).encode(), 1),
    "v1 and v2 in hex": (
        f"{ONE.encode().hex()}\n{v2_envelope().encode().hex()}\n".encode(),
        2,
    ),
    "json lines, v2": (json_line(v2_envelope(0)).encode(), 1),
    "hex": (ONE.encode().hex().encode(), 1),
    "hex over several lines": (wrapped(ONE.encode().hex()), 1),
    "hex, one per line": (f"{ONE.encode().hex()}\n{TWO.encode().hex()}\n".encode(), 2),
    "frames": (encode_frame(ONE.encode()) + encode_frame(TWO.encode()), 2),
    "frames in hex": (wrapped((encode_frame(ONE.encode()) * 2).hex()), 2),
    "json lines": (
        f'{{"event": "listening"}}\n{json_line(ONE)}\n\n{json_line(TWO)}\n'
        '{"event": "summary"}\n'.encode(),
        2,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(tmp_path: Path, form: str) -> None:
    data, count = FORMS[form]
    ran = verify_bytes(tmp_path, data)
    assert ran.exit_code == 0, ran
    lines = ran.stdout.splitlines()
    assert len(lines) == count
    assert all(line.startswith("valid ") for line in lines)
    assert f"from {ALICE.did}  to {BOB.did}  00000001 " in lines[0]
    assert lines[0].endswith("5 bytes")
    assert ran.stderr == f"{count} valid, 0 invalid\n"


def test_standard_input_and_json() -> None:
    ran = run("verify", "-", "--json", given=ONE.encode().hex())
    assert ran.exit_code == 0
    (fields,) = ran.objects
    assert fields["is_valid"] is True
    assert fields["problem"] is None
    assert fields["sender"] == str(ALICE.did)
    assert fields["payload"] == "hello"


FORGED = ONE.encode()[:-65] + b"!" + ONE.encode()[-64:]
UNSIGNED = SignedEnvelope.unsigned(ALICE.did, BOB.did, b"hello", sequence_number=1)
MOTION = envelope(3, payloads.encode(payloads.Heartbeat(uptime_ms=1)))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (FORGED, "bad signature"),
        (UNSIGNED.encode(), "unsigned envelope"),
        (ONE.encode()[:100], "100 bytes, the smallest has 170"),
        (encode_frame(ONE.encode()) + b"\0\0\0\xff", "ended 4 bytes into a frame"),
        (encode_frame(b"x" * 200), "begins with 78 78 78 78"),
        (encode_frame(ONE.encode()) + b"\0\0\0\0", "a frame of 0 bytes"),
        (json_line(ONE, sequence_number=2).encode(), "its sequence_number is not that of the env"),
        (json_line(ONE, payload="goodbye").encode(), "its payload is not that of the envelope"),
        (json_line(ONE, sender=str(BOB.did)).encode(), "its sender is not that of the envelope"),
        (json_line(ONE, decoded={"kind": "heartbeat"}).encode(), "its decoded is not that of"),
        (json_line(MOTION, decoded={"kind": "llm_query"}).encode(), "its decoded is not that of"),
        (json_line(ONE, envelope="zz").encode(), 'no "envelope" in hex digits'),
        (json_line(ONE, envelope=5).encode(), 'no "envelope" in hex digits'),
        (json_line(UNSIGNED).encode(), "unsigned envelope"),
        (f"{json_line(ONE)}\n{json_line(TWO)[:-9]}".encode(), "not JSON; was the end cut off?"),
        (f"{ONE.encode().hex()}\n{TWO.encode().hex()}\nzz".encode(), "not hex digits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_invalid_is_told_with_the_reason(tmp_path: Path, data: bytes, problem: str) -> None:
    ran = verify_bytes(tmp_path, data)
    assert ran.exit_code == 1, ran
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("invalid ")
    assert problem in last
    claim = f"it names {ALICE.did} as its sender, without a signature"
    assert f"from {ALICE.did}" not in last.replace(claim, "")
    assert ran.stderr.endswith("1 invalid\n")
    assert verify_bytes(tmp_path, data, "--json").objects[-1]["is_valid"] is False


def test_a_recipient_that_is_no_did_is_shown_as_it_is(tmp_path: Path) -> None:
    data = ONE.encode()[:64] + bytes(32) + ONE.encode()[96:]
    ran = verify_bytes(tmp_path, data)
    assert ran.exit_code == 1
    assert f"to {'00' * 32}" in ran.stdout


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, "message  volatile"),
        ({"subject": b"arm/left", "is_durable": True}, 'message  durable  subject "arm/left"'),
        ({"kind": Kind.PUBLICATION, "subject": b"x"}, 'publication  volatile  subject "x"'),
        ({"subject": b'a"  9 bytes \\'}, r'message  volatile  subject "a\"  9 bytes \\"'),
        ({"subject": "\u202eleft".encode()}, r'message  volatile  subject "\u202eleft"'),
    ],
)
def test_the_kind_and_the_subject_of_a_v2_envelope_are_shown(
    tmp_path: Path, fields: dict[str, Any], shown: str
) -> None:
    ran = verify_bytes(tmp_path, v2_envelope(**fields).encode())
    assert ran.exit_code == 0, ran
    assert ran.stdout.endswith(f"Z  {shown}  5 bytes\n")


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"hello\n", b"\0\0", b"\xff\xfe", b"[1]\n", b"deadbeef", b"I\n"]
)
def test_a_file_without_envelopes_cannot_be_used(tmp_path: Path, data: bytes) -> None:
    expect_one_sentence(verify_bytes(tmp_path, data), 3, "there is no envelope in", "v1 frames")


# -- receipt proofs ---------------------------------------------------------------


@pytest.fixture(scope="module")
def proof() -> bytes:
    with Node(BOB) as bob, Node(ALICE, TransportConfig(listen=None)) as alice:
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        return alice.send(bob.did, b"hello").proof()


def test_a_proof_tells_who_accepted_what_from_whom(tmp_path: Path, proof: bytes) -> None:
    for data in (proof, proof.hex().encode(), wrapped(proof.hex())):
        ran = verify_bytes(tmp_path, data)
        assert ran.exit_code == 0, ran
        assert re.match(
            rf"valid    proof  from {ALICE.did}  to {BOB.did}  [0-9a-f]{{8}}  ", ran.stdout
        )
        assert f"  5 bytes  accepted by {BOB.did} at 2" in ran.stdout
        assert ran.stdout.endswith("Z, not committed\n")
    (fields,) = verify_bytes(tmp_path, proof, "--json").objects
    assert fields["is_valid"] is True
    assert fields["delivery"] == "accepted"
    assert fields["delivered_at_us"] > 1_700_000_000_000_000
    assert fields["is_committed"] is False
    assert (fields["sender"], fields["payload"]) == (str(ALICE.did), "hello")
    both = verify_bytes(tmp_path, f"{ONE.encode().hex()}\n{proof.hex()}".encode())
    assert both.stderr == "2 valid, 0 invalid\n"


@pytest.mark.parametrize("form", ["envelope_joint", "receipt_joint", "both_joint"])
def test_a_proof_with_joint_signatures(tmp_path: Path, form: str) -> None:
    vectors = json.loads((DOCS / "vectors" / "v2.json").read_text(encoding="utf-8"))
    ran = verify_bytes(tmp_path, bytes.fromhex(vectors["joint_proofs"][form]))
    assert ran.exit_code == 0, ran
    assert f"accepted by {vectors['bob']['text']} at 2023-" in ran.stdout


def test_a_proof_tells_that_a_store_had_committed_it(tmp_path: Path) -> None:
    with Node(BOB, store=tmp_path / "bob.db") as bob, Node(ALICE) as alice:
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        proof = alice.send(bob.did, b"hello").proof()
    assert verify_bytes(tmp_path, proof).stdout.endswith("Z, committed\n")
    (fields,) = verify_bytes(tmp_path, proof, "--json").objects
    assert (fields["delivery"], fields["is_committed"]) == ("accepted", True)


@pytest.mark.parametrize("detail", ["", "closed on Sundays"])
def test_a_proof_tells_who_refused_what_and_why(tmp_path: Path, detail: str) -> None:
    with Node(BOB) as bob, Node(ALICE) as alice:
        assert bob.address is not None
        alice.routing.update(bob.did, bob.address)
        receipt = alice.send_nowait(bob.did, b"hello")
        bob.receive(timeout=LIMIT).nack("not allowed", detail)
        with pytest.raises(MessageRefusedError):
            receipt.result("handled", timeout=LIMIT)
        proof = receipt.proof()
    ran = verify_bytes(tmp_path, proof)
    assert ran.exit_code == 0
    assert f"  5 bytes  refused by {BOB.did} at 2" in ran.stdout
    said = f" ({detail})" if detail else ""
    assert ran.stdout.endswith(f"Z: not allowed{said}\n")
    (fields,) = verify_bytes(tmp_path, proof, "--json").objects
    assert (fields["is_valid"], fields["delivery"]) == (True, "refused")
    assert (fields["reason"], fields["detail"]) == ("not allowed", detail)
    assert fields["refused_at_us"] > 1_700_000_000_000_000
    assert not fields.keys() & {"delivered_at_us", "is_committed"}


def test_no_byte_of_a_proof_can_be_changed_or_missed(tmp_path: Path, proof: bytes) -> None:
    broken = [proof[:length] for length in range(8, len(proof), 7)]
    broken += [
        proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1 :] for at in range(8, len(proof), 7)
    ]
    lines = "\n".join(data.hex() for data in broken)
    ran = verify_bytes(tmp_path, lines.encode())
    assert ran.exit_code == 1
    assert ran.stderr == f"0 valid, {len(broken)} invalid\n"
    assert not any(line.startswith("valid") for line in ran.stdout.splitlines())
