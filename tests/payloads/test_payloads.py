"""The typed payloads: the captured bytes, every field there and back, and hostile bytes."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any, cast

import google.protobuf
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st

from signedwire import payloads
from signedwire.errors import SignedWireError
from signedwire.payloads import (
    AgentCommand,
    BoundingBox,
    Detection,
    Heartbeat,
    LlmQuery,
    MotionCommand,
    Payload,
    PayloadError,
    SensorFusionFrame,
    Transform,
    Vector3,
    decode,
    encode,
    kind,
    v1_pb2,
)

KINDS: dict[str, type[Message]] = {
    "agent_command": payloads.AgentCommand,
    "motion_command": payloads.MotionCommand,
    "inference_result": payloads.InferenceResult,
    "heartbeat": payloads.Heartbeat,
    "model_weights": payloads.ModelWeights,
    "sensor_fusion_frame": payloads.SensorFusionFrame,
    "llm_query": payloads.LlmQuery,
    "llm_response": payloads.LlmResponse,
}

# As the v1 network has it: message, then its fields from 1 on.
TABLE = """
EnvelopePayload: AgentCommand agent_command, MotionCommand motion_command,
    InferenceResult inference_result, Heartbeat heartbeat, ModelWeights model_weights,
    SensorFusionFrame sensor_fusion_frame, LlmQuery llm_query, LlmResponse llm_response
AgentCommand: string command_type, bytes target_did, uint64 timestamp_ns, bytes payload
MotionCommand: Vector3 linear, Vector3 angular, uint64 deadline_ns
Vector3: float x, float y, float z
InferenceResult: string model_id, float confidence, string label, bytes raw_output,
    uint64 latency_us
Heartbeat: bytes sender_did, uint64 uptime_ms, uint32 cpu_usage, uint32 mem_usage_kb, uint64 epoch
ModelWeights: string model_id, bytes compressed_weights, string compression, uint64 original_size
SensorFusionFrame: string frame_id, uint64 timestamp_us, repeated Detection detections,
    bytes point_cloud_data, bytes image_data, Transform pose
Detection: string class_name, float confidence, BoundingBox bbox, uint64 timestamp_us
BoundingBox: float x_min, float y_min, float x_max, float y_max
Transform: float x, float y, float z, float qx, float qy, float qz, float qw
LlmQuery: string prompt, string system_prompt, string model
LlmResponse: string response, uint64 latency_us
"""

Fields = dict[str, list[tuple[int, str, str]]]
"""Message name to its fields: number, type with `repeated`, name."""


# The captured frames


def captured() -> Any:
    path = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "v1-frames.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent: the captured frames are not part of the checkout")
    return json.loads(path.read_text(encoding="utf-8"))


def message_of(frame: dict[str, Any], sender_did: str) -> Payload:
    """The message that a live peer encoded in a captured frame."""
    fields = frame["fields"]
    match frame["message"]:
        case "agent_command":
            return AgentCommand(
                command_type=fields["command_type"],
                target_did=bytes.fromhex(fields["target_id"]),
                payload=bytes.fromhex(fields["payload_data"]),
            )
        case "motion_command":
            linear, angular = (
                Vector3(**{axis: fields[f"{part}_{axis}"] for axis in "xyz"})
                for part in ("linear", "angular")
            )
            return MotionCommand(linear=linear, angular=angular, deadline_ns=fields["deadline_ns"])
        case "heartbeat":
            return Heartbeat(
                sender_did=bytes.fromhex(sender_did),
                uptime_ms=fields["uptime_ms"],
                cpu_usage=fields["cpu"],
                mem_usage_kb=fields["mem_kb"],
                epoch=fields["epoch"],
            )
        case "llm_query":
            return LlmQuery(**fields)
        case other:
            raise AssertionError(f"a captured {other!r}, which no test knows")


@pytest.mark.parametrize("index", range(6))
def test_captured_payloads_byte_for_byte(index: int) -> None:
    vectors = captured()
    frame = vectors["frames"][index]
    message = message_of(frame, vectors["sender_did"])
    assert encode(message).hex() == frame["payload_hex"]
    assert decode(bytes.fromhex(frame["payload_hex"])) == message
    assert kind(message) == frame["message"]


def test_all_captured_payloads_are_tested() -> None:
    assert len(captured()["frames"]) == 6


# Which bytes mean what


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (AgentCommand(), "0a00"),
        (MotionCommand(), "1200"),
        # What a live peer sends for a standstill: both vectors present, both empty.
        (MotionCommand(linear=Vector3(), angular=Vector3()), "12040a001200"),
        (MotionCommand(linear=Vector3(x=0.0, y=-0.0)), "12070a051500000080"),
        (payloads.InferenceResult(), "1a00"),
        (Heartbeat(), "2200"),
        (payloads.ModelWeights(), "2a00"),
        (SensorFusionFrame(), "3200"),
        (LlmQuery(), "3a00"),
        (payloads.LlmResponse(), "4200"),
        (
            SensorFusionFrame(
                frame_id="f",
                detections=[Detection(class_name="c", bbox=BoundingBox(y_max=1))],
                pose=Transform(qw=1),
            ),
            "3216" + "0a0166" + "1a0a" + "0a0163" + "1a05250000803f" + "32053d0000803f",
        ),
    ],
    ids=str,
)
def test_defaults_take_no_bytes(message: Payload, expected: str) -> None:
    assert encode(message).hex() == expected
    assert decode(bytes.fromhex(expected)) == message


def test_encode_leaves_the_message_alone() -> None:
    message = AgentCommand(command_type="pick")
    encode(message)
    assert message == AgentCommand(command_type="pick")


def test_of_two_kinds_the_last_counts() -> None:
    data = encode(LlmQuery(prompt="p")) + encode(AgentCommand(command_type="stop"))
    assert decode(data) == AgentCommand(command_type="stop")


def test_fields_of_newer_versions_survive() -> None:
    data = bytes.fromhex("0a030a0161" + "5807")  # field 11 of the envelope
    assert decode(data) == AgentCommand(command_type="a")
    inside = bytes.fromhex("0a050a01615807")  # field 11 of the AgentCommand
    assert encode(decode(inside)) == inside


# Every field, there and back


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return st.text(st.characters(exclude_categories=["Cs"]))
        case FieldDescriptor.TYPE_BYTES:
            return st.binary()
        case FieldDescriptor.TYPE_FLOAT:
            return st.floats(width=32, allow_nan=False)
        case FieldDescriptor.TYPE_UINT32:
            return st.integers(0, 2**32 - 1)
        case FieldDescriptor.TYPE_UINT64:
            return st.integers(0, 2**64 - 1)
        case FieldDescriptor.TYPE_MESSAGE:
            assert field.message_type is not None
            parts = messages(field.message_type)
            return st.lists(parts, max_size=3) if type_of(field).startswith("repeated") else parts
        case other:
            raise AssertionError(f"{field.full_name} has a type that no test knows: {other}")


def messages(descriptor: Any) -> st.SearchStrategy[Message]:
    build = getattr(v1_pb2, descriptor.name)
    return st.fixed_dictionaries(
        {}, optional={field.name: values(field) for field in descriptor.fields}
    ).map(lambda fields: cast(Message, build(**fields)))


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
def test_there_and_back(name: str, data: st.DataObject) -> None:
    message = cast(Payload, data.draw(messages(KINDS[name].DESCRIPTOR)))
    back = decode(encode(message))
    assert back == message
    assert type(back) is KINDS[name]
    assert kind(back) == name
    assert encode(back) == encode(message)


def test_not_a_number_survives() -> None:
    back = decode(encode(MotionCommand(linear=Vector3(x=float("nan")))))
    assert isinstance(back, MotionCommand)
    assert back.linear.x != back.linear.x


# Hostile bytes


def decode_or_refuse(data: bytes) -> None:
    try:
        message = decode(data)
    except PayloadError as error:
        assert str(error).startswith(f"{len(data)} bytes of payload ")  # noqa: PT017
    else:
        assert kind(message) in KINDS


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff" * 64)
@example(b"\x0a\x03\x0a\x01\xff")  # not UTF-8 in a string
@example(b"\x0a\xff\xff\xff\xff\x0f")  # a length of 4 GiB
@example(b"\x0b" * 5000)  # groups in groups
@example(b"\x0c")  # the end of a group that never began
@example(b"\x00\x00")  # field number 0
@example(b"\x08\x01")  # field 1 as a number
def test_any_bytes(data: bytes) -> None:
    decode_or_refuse(data)


@given(st.data())
def test_damaged_payloads(data: st.DataObject) -> None:
    message = data.draw(
        st.sampled_from(sorted(KINDS)).flatmap(lambda n: messages(KINDS[n].DESCRIPTOR))
    )
    damaged = bytearray(encode(cast(Payload, message)))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


def test_deep_nesting_is_refused() -> None:
    depth = 10_000
    with pytest.raises(PayloadError, match="not a protobuf EnvelopePayload"):
        decode(b"\x7b" * depth + b"\x7c" * depth)  # group 15, which nobody knows


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 bytes of payload hold none of the eight v1 payload kinds"),
        (b"\x58\x07", "2 bytes of payload hold none of the eight v1 payload kinds"),
        (b"\x0a\x05", "2 bytes of payload are not a protobuf EnvelopePayload"),
        (b"hello", "5 bytes of payload "),
    ],
)
def test_what_the_error_says(data: bytes, text: str) -> None:
    with pytest.raises(PayloadError) as caught:
        decode(data)
    assert str(caught.value).startswith(text)
    assert isinstance(caught.value, SignedWireError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("wrong", [Vector3(), Detection(), v1_pb2.EnvelopePayload(), b"", None])
def test_what_is_no_payload(wrong: Any) -> None:
    expected = rf"^a {type(wrong).__name__} is no payload: use one of agent_command, .*"
    with pytest.raises(TypeError, match=expected):
        encode(wrong)
    with pytest.raises(TypeError, match=expected):
        kind(wrong)


# The generated code


def type_of(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        name = field.message_type.name
    else:
        name = {
            FieldDescriptor.TYPE_STRING: "string",
            FieldDescriptor.TYPE_BYTES: "bytes",
            FieldDescriptor.TYPE_FLOAT: "float",
            FieldDescriptor.TYPE_UINT32: "uint32",
            FieldDescriptor.TYPE_UINT64: "uint64",
        }[field.type]
    return f"repeated {name}" if is_repeated(field) else name


def is_repeated(field: FieldDescriptor) -> bool:
    # `label` is deprecated, and `is_repeated` newer than protobuf 6.30.
    assert field.containing_type is not None
    owner = getattr(v1_pb2, field.containing_type.name)()
    return hasattr(getattr(owner, field.name), "append")


def fields_of_the_table() -> Fields:
    table: Fields = {}
    for line in re.sub(r"\n +", " ", TABLE).strip().splitlines():
        message, _, fields = line.partition(": ")
        table[message] = [
            (number, *field.strip().rsplit(" ", 1))  # type: ignore[misc]
            for number, field in enumerate(fields.split(","), start=1)
        ]
    return table


def fields_of_the_generated_code() -> Fields:
    return {
        name: [(field.number, type_of(field), field.name) for field in descriptor.fields]
        for name, descriptor in v1_pb2.DESCRIPTOR.message_types_by_name.items()
    }


def fields_of_the_proto_file() -> Fields:
    text = (Path(payloads.__file__).parent / "v1.proto").read_text(encoding="utf-8")
    found: Fields = {}
    for line in text.splitlines():
        if opened := re.match(r"message (\w+) {", line):
            fields = found[opened[1]] = []
        elif field := re.match(r" +((?:repeated )?\w+) (\w+) = (\d+)[ ;]", line):
            fields.append((int(field[3]), field[1], field[2]))
    return found


def test_the_generated_code_is_the_table() -> None:
    assert fields_of_the_generated_code() == fields_of_the_table()


def test_the_generated_code_is_of_the_proto_file() -> None:
    assert fields_of_the_generated_code() == fields_of_the_proto_file(), "run `make proto`"


def test_the_oneof_holds_every_kind() -> None:
    (oneof,) = v1_pb2.EnvelopePayload.DESCRIPTOR.oneofs
    assert [field.name for field in oneof.fields] == list(KINDS)
    assert set(KINDS.values()) == set(Payload.__args__)
    for name, message_type in KINDS.items():
        assert kind(cast(Payload, message_type())) == name


def test_every_public_name_is_there() -> None:
    generated = set(fields_of_the_generated_code()) - {"EnvelopePayload"}
    ours = {"encode", "decode", "kind", "Payload", "PayloadError"}
    assert set(payloads.__all__) == generated | ours
    for name in payloads.__all__:
        assert getattr(payloads, name) is not None


# The package


def test_the_example_in_the_docstring() -> None:
    result = doctest.testmod(payloads)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.fixture
def not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("signedwire.payloads", "signedwire.payloads.v1_pb2"):
        monkeypatch.delitem(sys.modules, name)


SENTENCE = (
    "signedwire.payloads needs protobuf 6.30 or newer: pip install 'signedwire[payloads]', "
    "or '.[payloads]' in a checkout"
)


@pytest.mark.usefixtures("not_imported")
def test_without_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(ImportError) as caught:
        importlib.import_module("signedwire.payloads")
    assert str(caught.value) == SENTENCE


@pytest.mark.usefixtures("not_imported")
@pytest.mark.parametrize("version", ["4.25.9", "5.29.6", "6.29.0rc1"])
def test_with_an_old_protobuf(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(google.protobuf, "__version__", version)
    with pytest.raises(ImportError) as caught:
        importlib.import_module("signedwire.payloads")
    assert str(caught.value) == SENTENCE
