"""The typed payloads of the v1 network, as protobuf messages.

The payload bytes of a v1 envelope are one `EnvelopePayload` with one of eight
kinds of message. `encode` returns these bytes for a message, `decode` returns the
message, and `kind` returns the name of its kind:

    >>> from signedwire import payloads
    >>> data = payloads.encode(payloads.AgentCommand(command_type="pick", payload=b"A12"))
    >>> data.hex()
    '0a0b0a047069636b2203413132'
    >>> message = payloads.decode(data)
    >>> payloads.kind(message)
    'agent_command'
    >>> message.command_type, message.payload
    ('pick', b'A12')

A field with its default value takes no bytes, but a sub-message that was set
does: `MotionCommand()` and `MotionCommand(linear=Vector3())` have different bytes.
Set both vectors of a MotionCommand, as live v1 peers do. A peer that gets one without
a vector passes it on without that velocity, not with zero. Unknown fields of newer
versions survive a decode and an encode.

Live v1 peers accept at most 1024 bytes of payload. This package does not check that:
the limit belongs to the envelope.

Needs protobuf, the extra `signedwire[payloads]`.
"""

from __future__ import annotations

from typing import Any, Final, cast

try:
    import google.protobuf

    # The generated code refuses an older version with an error that is not an ImportError.
    if tuple(map(int, google.protobuf.__version__.split(".")[:2])) < (6, 30):
        raise ImportError(f"protobuf {google.protobuf.__version__} is too old")

    from google.protobuf.message import DecodeError

    from signedwire.payloads.v1_pb2 import (
        AgentCommand,
        BoundingBox,
        Detection,
        EnvelopePayload,
        Heartbeat,
        InferenceResult,
        LlmQuery,
        LlmResponse,
        ModelWeights,
        MotionCommand,
        SensorFusionFrame,
        Transform,
        Vector3,
    )
except ImportError as error:
    raise ImportError(
        "signedwire.payloads needs protobuf 6.30 or newer: pip install 'signedwire[payloads]', "
        "or '.[payloads]' in a checkout",
        name=error.name,
    ) from error

from signedwire.errors import SignedWireError

__all__ = [
    "encode",
    "decode",
    "kind",
    "Payload",
    "PayloadError",
    "AgentCommand",
    "MotionCommand",
    "Vector3",
    "InferenceResult",
    "Heartbeat",
    "ModelWeights",
    "SensorFusionFrame",
    "Detection",
    "BoundingBox",
    "Transform",
    "LlmQuery",
    "LlmResponse",
]

Payload = (
    AgentCommand
    | MotionCommand
    | InferenceResult
    | Heartbeat
    | ModelWeights
    | SensorFusionFrame
    | LlmQuery
    | LlmResponse
)
"""The eight messages that can be a payload; all other messages are parts of them."""

_KINDS: Final[dict[type[object], str]] = {
    AgentCommand: "agent_command",
    MotionCommand: "motion_command",
    InferenceResult: "inference_result",
    Heartbeat: "heartbeat",
    ModelWeights: "model_weights",
    SensorFusionFrame: "sensor_fusion_frame",
    LlmQuery: "llm_query",
    LlmResponse: "llm_response",
}


class PayloadError(SignedWireError, ValueError):
    """Bytes that are not a payload of the v1 network."""


def encode(message: Payload) -> bytes:
    """Return the payload bytes of `message`, byte for byte as a live v1 peer writes them.

    Raises:
        TypeError: `message` is not one of the eight kinds of `Payload`.
    """
    fields: dict[str, Any] = {kind(message): message}
    return EnvelopePayload(**fields).SerializeToString()


def decode(data: bytes) -> Payload:
    """Decode the payload bytes of an envelope from a v1 peer.

    Raises:
        PayloadError: `data` is not an EnvelopePayload, or has none of its eight kinds.
    """
    envelope = EnvelopePayload()
    try:
        envelope.ParseFromString(data)
    # The pure-Python protobuf raises UnicodeDecodeError for bad UTF-8.
    except (DecodeError, UnicodeDecodeError) as error:
        raise PayloadError(
            f"{len(data)} bytes of payload are not a protobuf EnvelopePayload: {error}"
        ) from error
    name = envelope.WhichOneof("payload")
    if name is None:
        raise PayloadError(f"{len(data)} bytes of payload hold none of the eight v1 payload kinds")
    return cast(Payload, getattr(envelope, name))


def kind(message: Payload) -> str:
    """Return the kind of `message` as live v1 peers name it: `"agent_command"`, `"heartbeat"` …

    Raises:
        TypeError: `message` is not one of the eight kinds of `Payload`.
    """
    name = _KINDS.get(type(message))
    if name is None:
        raise TypeError(
            f"a {type(message).__name__} is no payload: use one of {', '.join(_KINDS.values())}"
        )
    return name
