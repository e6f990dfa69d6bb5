"""Write docs/vectors/evidence.json: `python tests/make_evidence_vectors.py`, with src on the path.

Keys and bodies are those of docs/vectors/v2.json, so the same code gives the same file.
A change of the file is a change of docs/evidence.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from make_v2_vectors import ALICE, BOB, TIME_US, sent
from signedwire.evidence.chain import Chain, LogHeader
from signedwire.wire.envelope import MerklePath, SignedEnvelope

FILE: Final = Path(__file__).resolve().parents[1] / "docs" / "vectors" / "evidence.json"
PREVIOUS: Final = bytes(range(64, 96))


def envelopes() -> list[SignedEnvelope]:
    """A v1 envelope, a v2 one alone, and two out of a batch of 17, all of Alice to Bob."""
    v1 = SignedEnvelope.sign(ALICE, BOB.did, b"hello", sequence_number=1, timestamp_us=TIME_US)
    found = [v1]
    for count, index in ((1, 0), (17, 3), (17, 16)):
        bodies, batch = sent(count)
        proof = MerklePath(index, count, batch.signature, leaves=batch.leaves)
        found.append(SignedEnvelope(bodies[index], proof))
    return found


def vectors() -> dict[str, Any]:
    """The whole file."""
    header = LogHeader(bytes(BOB.did), TIME_US, PREVIOUS).encode()
    chain = Chain(header[-32:])
    records = [
        {
            "accepted_at_us": TIME_US + number,
            "envelope": envelope.encode().hex(),
            "record": chain.record(TIME_US + number, envelope).hex(),
            "head": chain.head.hex(),
        }
        for number, envelope in enumerate(envelopes(), 1)
    ]
    return {
        "about": "Test vector of docs/evidence.md: an evidence log of Bob's, header and records.",
        "owner": BOB.did.hex(),
        "started_at_us": TIME_US,
        "previous": PREVIOUS.hex(),
        "header": header.hex(),
        "records": records,
    }


def text() -> str:
    """The file as it is written."""
    return json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")
