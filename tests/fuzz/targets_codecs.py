"""Typed payloads: codecs that read what a stranger sends."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from signedwire.errors import SchemaError
from signedwire.messaging.codecs import JsonCodec, MsgspecCodec

from .target import Target

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


def _expect_refusal_text(error: SchemaError) -> None:
    assert error.detail
    assert error.detail.isprintable()
    assert len(error.detail.encode()) <= 256


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
    )
)
