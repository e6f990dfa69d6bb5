"""What is fuzzed: each target reads bytes and lets nothing out but what is documented.

A target also checks what must hold of an input that is accepted: that it means the same
when it is written and read again, for one.
"""

from __future__ import annotations

import contextlib

from signedwire import payloads
from signedwire.config import OPTIONS, TransportConfig
from signedwire.errors import AddressError, ConfigError, DidError, IdentityError
from signedwire.identity import Identity
from signedwire.routing import RoutingTable
from signedwire.settings import load_config, read_settings
from signedwire.transport.v1.validator import V1Validator, Verified
from signedwire.types import Address, Did, SignaturePolicy, parse_peer
from signedwire.wire.frames import FrameDecoder, encode_frame

from .target import Target, expect_named, expect_short, file_with, text_of
from .targets_codecs import TARGETS as CODEC_TARGETS
from .targets_kit import ALICE, BOB
from .targets_link import TARGETS as LINK_TARGETS
from .targets_proofs import SIGNED, UNSIGNED
from .targets_proofs import TARGETS as PROOF_TARGETS
from .targets_store import TARGETS as STORE_TARGETS

__all__ = ["TARGETS"]

_LIMIT = 300


# --- the wire ---------------------------------------------------------------------------


def frames(data: bytes) -> None:
    """The first byte says how the rest is cut; a plain reading says what must come out."""
    size, stream = (data[0] % 17 or len(data)) if data else 1, data[1:]
    decoder = FrameDecoder(_LIMIT)
    got: list[bytes] = []
    for start in range(0, len(stream), size):
        got += decoder.receive_data(stream[start : start + size])
        assert len(decoder._buffer) < 4 + _LIMIT
    position, expected, is_wrong = 0, [], bool(stream) and stream[0] != 0
    while not is_wrong and len(stream) - position >= 4:
        length = int.from_bytes(stream[position : position + 4], "big")
        is_wrong = not 0 < length <= _LIMIT
        if is_wrong or len(stream) - position - 4 < length:
            break
        expected.append(stream[position + 4 : position + 4 + length])
        position += 4 + length
    assert got == expected
    assert (decoder.error is not None) == is_wrong
    decoder.receive_eof()
    assert (decoder.error is not None) == (is_wrong or position < len(stream))
    assert not decoder.has_partial_frame


def screen(data: bytes) -> None:
    verdict = _SCREEN.check(data)
    if isinstance(verdict, Verified):
        assert verdict.message.is_proven == (data in SIGNED)
        if verdict.message.is_proven:
            assert bytes(verdict.message.sender) == data[32:64]
        assert data[64:96] == bytes(BOB.did)
        repr(verdict.message)


_ENVELOPES = (*sorted(SIGNED), UNSIGNED, bytes(170))
_SCREEN = V1Validator(TransportConfig(signatures=SignaturePolicy.IF_PRESENT), BOB.did)

# --- text -------------------------------------------------------------------------------


def did(data: bytes) -> None:
    try:
        parsed = Did.parse(text_of(data))
    except DidError as error:
        expect_short(error)
        return
    assert Did.parse(str(parsed)) == Did.parse(parsed.hex()) == parsed == Did(bytes(parsed))
    assert f"{parsed!r} {parsed.short}"


def address(data: bytes) -> None:
    try:
        parsed = Address.parse(text_of(data))
    except AddressError as error:
        expect_short(error)
        return
    assert Address.parse(str(parsed)) == parsed
    assert 0 <= parsed.port <= 65535


def peer(data: bytes) -> None:
    try:
        parsed, place = parse_peer(text_of(data))
    except (DidError, AddressError):
        return
    again = f"{parsed}" if place is None else f"{parsed}@{place}"
    assert parse_peer(again) == (parsed, place)


# --- files and the environment ----------------------------------------------------------


def peers_file(data: bytes) -> None:
    path = file_with(data)
    try:
        table = RoutingTable.load(path)
    except ConfigError as error:
        expect_named(error, path)
        return
    assert all(table.resolve(each) == place for each, place in table)


def config_file(data: bytes) -> None:
    path = file_with(data)
    with contextlib.suppress(ConfigError):
        read_settings(path, {}).explain()
    try:
        config = load_config(path, {})
    except ConfigError as error:
        expect_named(error, path)
        return
    assert config == load_config(path, {}) == config.replace()


def environment(data: bytes) -> None:
    """A line each: what stands before the first `=` is added to the prefix."""
    environ = {}
    for line in text_of(data).split("\n"):
        name, _, value = line.partition("=")
        environ[f"SIGNEDWIRE_{name}"] = value
    try:
        config = load_config(None, environ)
    except ConfigError:
        return
    assert config == config.replace()


def key_file(data: bytes) -> None:
    # Without a password: with one, a file may ask for any number of rounds.
    path = file_with(data)
    try:
        identity = Identity.load(path)
    except IdentityError as error:
        expect_named(error, path)
        return
    assert Did(bytes(identity.did)) == identity.did


def payload(data: bytes) -> None:
    try:
        message = payloads.decode(data)
    except payloads.PayloadError:
        return
    assert payloads.kind(message)
    assert f"{message} {message!r}"
    encoded = payloads.encode(message)
    assert payloads.encode(payloads.decode(encoded)) == encoded


# --- what they begin with ---------------------------------------------------------------

_DIDS = tuple(
    spelling.encode()
    for spelling in (str(ALICE.did), str(BOB.did)[8:], BOB.did.hex(), f" {ALICE.did}\n")
)
_ADDRESSES = (b"127.0.0.1:9001", b"[::1]:0", b"robot-7.local:65535", b"[fe80::1%eth0]:80")
_ENVIRONMENT = (
    b"PRESET=production\nLISTEN=0.0.0.0:9001\nV1_PEERS=" + _DIDS[0] + b"," + _DIDS[2],
    b"CONNECT_TIMEOUT=none\nMAX_ATTEMPTS=3\nRETRY_JITTER=0.5\nSIGNATURES=if-present",
    b"NETWORK=memory\nFALLBACK=[::1]:9\nVERIFY_THREADS=NONE\nMAX_FRAME_SIZE=4096",
    b"V1_PEERS=all\nMAX_FRAME_SIZE=200\nMAX_V1_PAYLOAD_SIZE=30",
)
_PEERS_FILES = (
    b'[peers]\n"' + _DIDS[0] + b'" = "127.0.0.1:9001"\n"' + _DIDS[2] + b'" = "[::1]:2"\n',
    b"peers = {}\n",
    b"\xef\xbb\xbf[peers]\n" + _DIDS[1] + b" = 'h:1' # no quotes\n",
)
_CONFIG_FILES = (
    b'preset = "production"\nlisten = "0.0.0.0:9001"\nv1_peers = ["' + _DIDS[0] + b'"]\n',
    b'connect_timeout = "none"\nretry_jitter = 0.5\nmax_attempts = 1_0\nsignatures = "required"\n',
    b'max_frame_size = 200\nmax_v1_payload_size = 30\nfallback = "h:1"\nnetwork = "memory"\n',
    b'listen = "none"\nframe_timeout = 1e3\nretry_max_delay = 5\nv1_peers = "all"\n',
)
_TOML_WORDS = (
    *(b"=", b'"', b"'", b'"""', b"[", b"]", b"[[", b"{", b"}", b"\n", b"#", b"\\u0000", b"\\"),
    *(b"true", b"nan", b"inf", b"-1", b"1e999", b"9" * 400, b"0x1", b"1979-05-27", b"none"),
    *(b"peers", b"127.0.0.1:1", b"h:0", *_DIDS[:3]),
)
_OPTIONS = tuple(name.encode() for name in (*OPTIONS, "preset"))


def _key_files() -> tuple[bytes, ...]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    locked = serialization.BestAvailableEncryption(b"x")
    return (
        bytes(range(32)),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
        key.private_bytes(pem, serialization.PrivateFormat.OpenSSH, plain),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked),
        public,
        b"ssh-ed25519 AAAA\n",
    )


def _payloads() -> tuple[bytes, ...]:
    box = payloads.BoundingBox(x_min=0.5, y_max=2)
    found = payloads.Detection(confidence=0.5, bbox=box, timestamp_us=3)
    some: tuple[payloads.Payload, ...] = (
        payloads.AgentCommand(command_type="pick", payload=b"A12", timestamp_ns=2**63),
        payloads.MotionCommand(linear=payloads.Vector3(x=1), angular=payloads.Vector3()),
        payloads.Heartbeat(sender_did=bytes(32), uptime_ms=1, epoch=7),
        payloads.SensorFusionFrame(frame_id="f", pose=payloads.Transform(qw=1)),
        payloads.LlmQuery(prompt="hé", model="m"),
        payloads.InferenceResult(model_id="m", confidence=0.5, raw_output=b"\0\1"),
    )
    frame = payloads.SensorFusionFrame(frame_id="g")
    for field in frame.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.name == "Detection":
            getattr(frame, field.name).append(found)
    return tuple(payloads.encode(each) for each in (*some, frame))


TARGETS = {
    target.name: target
    for target in (
        Target(
            "frames",
            frames,
            (
                b"\0" + b"".join(map(encode_frame, _ENVELOPES)),
                b"\1" + encode_frame(b"abc") * 3,
                b"\3" + encode_frame(bytes(_LIMIT)) + (_LIMIT + 1).to_bytes(4, "big"),
                b"\5\x16\x03\x01",
            ),
            (b"\0\0\0\0", b"\0\0\1\x2c", b"\0\0\1\x2d", b"\xff\xff\xff\xff", b"\0\0\0\1"),
        ),
        Target("screen", screen, _ENVELOPES, (b"INMO", bytes(ALICE.did), bytes(64))),
        Target("did", did, _DIDS, (b"did:key:", b"z6Mk", b"0", b"1" * 8, b" "), 300),
        Target("address", address, _ADDRESSES, (b":", b"[", b"]", b"::", b"%", b"65536"), 300),
        Target(
            "peer",
            peer,
            tuple(each + b"@" + place for each in _DIDS[:3] for place in _ADDRESSES),
            (b"@", b":", b"did:key:"),
            400,
        ),
        Target("peers-file", peers_file, _PEERS_FILES, _TOML_WORDS),
        Target("config-file", config_file, _CONFIG_FILES, (*_TOML_WORDS, *_OPTIONS)),
        Target(
            "environment",
            environment,
            _ENVIRONMENT,
            (b"\n", b"=", b",", b"nan", b"9" * 5000, *(name.upper() for name in _OPTIONS)),
        ),
        Target("key-file", key_file, _key_files(), (b"-----", b"\n", b"BEGIN ", b"OPENSSH ")),
        Target("payload", payload, _payloads(), (b"\n", b"\x12", b"\xff\xff\xff\xff\x0f", b"\0")),
        *CODEC_TARGETS,
        *PROOF_TARGETS,
        *LINK_TARGETS,
        *STORE_TARGETS,
    )
}
