"""How payloads are shown: escaped, decoded, cut."""

from __future__ import annotations

import json

import pytest

from signedwire import (
    Address,
    FailureKind,
    Identity,
    Names,
    PayloadType,
    Priority,
    Probe,
    SignedEnvelope,
    payloads,
)
from signedwire.cli.errors import BadFile, report
from signedwire.cli.formatting import (
    at_utc,
    decoded_fields,
    decoded_payload,
    envelope_fields,
    payload_text,
)
from signedwire.cli.option_values import read_payload_type, read_priority
from signedwire.cli.output import escape, result, result_as_is, say
from signedwire.cli.ping_commands import _peer_line, _ping_lines

HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "over\rwritten",
    "two\nlines",
    "bell\x07",
    "\x7f\x08\x08",
    "right\u202eto left",
    "in\u200bvisible",
    "line\u2028separator",
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_escaped_text_is_printable_and_one_line(text: str) -> None:
    assert escape(text).isprintable()
    assert escape(text) != text


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_every_line_for_people_is_escaped(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"cannot read {text}")
    result(f"in {text}")
    report(BadFile(text, text))
    out, err = capsys.readouterr()
    assert out == f"in {escape(text)}\n"
    assert err.startswith(f"cannot read {escape(text)}\nsignedwire: {escape(text)}")
    assert err.count("\n") == 2
    result_as_is(f"\x1b[32mvalid\x1b[0m  {escape(text)}")  # what `paint()` made stays
    assert capsys.readouterr().out == f"\x1b[32mvalid\x1b[0m  {escape(text)}\n"


@pytest.mark.parametrize("text", HOSTILE[:-1], ids=ascii)
def test_an_error_as_json_stays_json(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    report(BadFile(text, text), as_json=True)
    assert json.loads(capsys.readouterr().err)["message"] == text


@pytest.mark.parametrize("text", HOSTILE[:-1], ids=ascii)
def test_a_hostile_payload_is_harmless(text: str) -> None:
    assert payload_text(text.encode()).isprintable()


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_what_a_peer_says_at_the_end_of_a_link_is_harmless(text: str) -> None:
    did, address = Identity.generate().did, Address("h", 1)
    finding = Probe(did=did, address=address, failure=FailureKind.CLOSED, error=text)
    assert _peer_line(finding, Names()).isprintable()
    assert all(line.isprintable() for line in _ping_lines(finding, is_first=True))


def test_printable_text_stays_as_it_is() -> None:
    for text in ("hello", "[bold]not bold[/bold]", "grüße, 世界 🚀", r"C:\new", " "):
        assert escape(text) == text
        assert payload_text(text.encode()) == text


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", "(empty)"),
        (b"a\tb\n", r"a\tb\n"),
        (b"\x1b[1m", "hex 1b5b316d"),
        (b"\xff\xfe", "hex fffe"),
        (b"x" * 500, f"{'x' * 400}… (500 bytes)"),
        (b"\xff" * 250, f"hex {'ff' * 198}… (250 bytes)"),
        (
            payloads.encode(payloads.AgentCommand(command_type="pick", payload=b"A12")),
            'agent_command command_type="pick" payload="A12"',
        ),
        (
            payloads.encode(payloads.AgentCommand(command_type="\x1b[2J", payload=b"\xff")),
            r'agent_command command_type="\x1b[2J" payload="0xff"',
        ),
        (
            payloads.encode(payloads.MotionCommand(linear=payloads.Vector3(x=0.1, z=-2))),
            "motion_command linear=(x=0.1 z=-2)",
        ),
        (
            payloads.encode(
                payloads.SensorFusionFrame(detections=[payloads.Detection(class_name="cat")])
            ),
            'sensor_fusion_frame detections=[(class_name="cat")]',
        ),
    ],
)
def test_payloads_are_shown_as_what_they_are(payload: bytes, shown: str) -> None:
    assert payload_text(payload) == shown


def test_only_what_is_a_v1_payload_through_and_through_is_decoded() -> None:
    heartbeat = payloads.encode(payloads.Heartbeat(uptime_ms=5))
    assert decoded_fields(heartbeat) == {"kind": "heartbeat", "uptime_ms": 5}
    # An unknown field, a second payload, a longer encoding of the same number.
    for other in (heartbeat + b"\x78\x01", heartbeat + heartbeat, b"\x22\x03\x10\x85\x00"):
        assert decoded_fields(other) is None
        assert payload_text(other).startswith("hex ")


def test_numbers_that_json_lacks_become_text() -> None:
    nan = payloads.MotionCommand(linear=payloads.Vector3(x=float("nan"), y=float("inf")))
    fields = decoded_fields(payloads.encode(nan))
    assert json.dumps(fields, allow_nan=False)
    assert fields == {"kind": "motion_command", "linear": {"x": "nan", "y": "inf"}}


def test_the_fields_of_an_envelope() -> None:
    alice, bob = Identity.generate(), Identity.generate()
    envelope = SignedEnvelope.sign(
        alice,
        bob.did,
        b"\xff",
        sequence_number=9,
        priority=Priority.CRITICAL,
        payload_type=PayloadType.SENSOR_FUSION,
        timestamp_us=1_700_000_000_000_001,
    )
    fields = envelope_fields(envelope, is_proven=True)
    assert fields == {
        "sender": str(alice.did),
        "is_proven": True,
        "recipient": str(bob.did),
        "sequence_number": 9,
        "message_id": envelope.message_id.hex(),
        "timestamp_us": 1_700_000_000_000_001,
        "version": 7,
        "wire": "v1",
        "epoch": None,
        "expires_at_us": None,
        "kind": "message",
        "subject": "",
        "is_durable": False,
        "priority": "critical",
        "payload_type": "sensor-fusion",
        "size": 1,
        "encoding": "hex",
        "payload": "ff",
    }
    assert envelope_fields(envelope, is_proven=False)["sender"] is None


def test_times() -> None:
    assert at_utc(1_700_000_000_000_001) == "2023-11-14T22:13:20.000001Z"
    assert at_utc(2**64 - 1)  # any number that an envelope can carry


def test_the_words_of_the_options_are_the_names_of_the_members() -> None:
    for priority in Priority:
        assert read_priority(priority.name.lower()) is priority
    for kind in PayloadType:
        assert read_payload_type(kind.name.lower().replace("_", "-")) is kind


def test_what_is_shown_does_not_cost_what_is_sent() -> None:
    """A payload of half a million parts is not taken apart, nor is a long text escaped whole."""
    small = payloads.encode(payloads.AgentCommand(payload=b"x" * 60_000))
    large = payloads.encode(payloads.AgentCommand(payload=b"x" * 70_000))
    assert decoded_payload(small) is not None
    assert decoded_payload(large) is None
    text = b"\n" * (1 << 20)
    assert payload_text(text) == "\\n" * 200 + "\u2026 (1048576 bytes)"
