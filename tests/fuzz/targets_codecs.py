"""Typed payloads and names: codecs that read what a stranger sends, and texts that name a peer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from signedwire.config import TransportConfig
from signedwire.errors import ConfigError, DidError, SchemaError, UnknownNameError
from signedwire.messaging.codecs import JsonCodec, MsgspecCodec
from signedwire.names import Names, is_name
from signedwire.types import Did

from .target import Target, expect_short, text_of
from .targets_kit import ALICE, BOB

__all__ = ["TARGETS"]


@dataclass
class Inner:
    name: str
    at: int | None = None


@dataclass
class Outer:
    speed: float
    inner: list[Inner]
    more: dict[str, bool | bytes | None]


_JSON = JsonCodec()
_CODECS = (MsgspecCodec("json"), MsgspecCodec("msgpack"))
_VALUE = Outer(0.5, [Inner("a"), Inner("é", -1)], {"k": True, "n": None})


def json_codec(data: bytes) -> None:
    """What is read is written and read as the same; the parser of Python agrees."""
    try:
        value = _JSON.decode(data, object)
    except SchemaError as error:
        _expect_refusal_text(error)
        return
    assert value == json.loads(data)
    encoded = _JSON.encode(value)
    again = _JSON.decode(encoded, object)
    assert again == value
    assert _JSON.encode(again) == encoded


def msgspec_codec(data: bytes) -> None:
    """The first byte chooses the format and the type."""
    if not data:
        return
    codec, types = _CODECS[data[0] % 2], (Outer, list[Inner], dict[str, Any], object)
    type_: Any = types[data[0] // 2 % len(types)]
    try:
        value = codec.decode(data[1:], type_)
    except SchemaError as error:
        _expect_refusal_text(error)
        return
    if type_ is Outer and math.isfinite(value.speed):  # JSON has null for the others
        assert codec.decode(codec.encode(value), type_) == value


def names(data: bytes) -> None:
    """The first line is looked up; each further one is a name with its DID."""
    wanted, *lines = text_of(data).split("\n")
    given = dict(line.partition("=")[::2] for line in lines)
    try:
        known = TransportConfig(names=given).names
    except ConfigError as error:
        expect_short(error)
        return
    assert known == Names(given)
    for name, did in known.items():
        assert is_name(name)
        assert known.did_of(name) == known.did_of(str(did)) == did
        assert known[known.name_of(did) or ""] == did
        try:
            Did.parse(name)
        except DidError:
            continue
        raise AssertionError(f"the name {name} is a DID")
    try:
        assert isinstance(known.did_of(wanted), Did)
    except UnknownNameError as error:
        assert wanted.strip() not in known
        expect_short(error)
    except DidError as error:
        assert not is_name(wanted)
        expect_short(error)


def _expect_refusal_text(error: SchemaError) -> None:
    assert error.detail
    assert error.detail.isprintable()
    assert len(error.detail.encode()) <= 256


_A, _B = str(ALICE.did).encode(), BOB.did.hex().encode()
_JSON_WORDS = (
    *(b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\ud83d", b"\\ude00", b"null", b"true"),
    *(b"-0", b"1e999", b"9" * 25, b"NaN", b"-Infinity", b"[" * 70, b'{"a":' * 70),
    *(b'"speed":', b'"inner":', b'"name":', b'"more":', "\u202e".encode()),
)

TARGETS = tuple(
    Target(*each)
    for each in (
        (
            "json-codec",
            json_codec,
            (
                b'{"a":[1,-2.5e3,null,true],"b":"\\ud83d\\ude00"}',
                b"[[],{}]",
                b"18446744073709551615",
            ),
            _JSON_WORDS,
        ),
        (
            "msgspec-codec",
            msgspec_codec,
            tuple(bytes([n]) + codec.encode(_VALUE) for n, codec in enumerate(_CODECS)),
            (*_JSON_WORDS, b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc1", b"\xcf", b"\x81"),
        ),
        (
            "names",
            names,
            (b"robot-1\nrobot-1=" + _A + b"\nb=" + _B, b"Robt\nrobot=" + _A, _B + b"\n"),
            (b"\n", b"=", b"none", b"all", b"z6Mk", b"did:key:", b"a" * 63, b".", b"-", _A, _B),
        ),
    )
)
