"""Codecs and subjects: what they read and write, what they refuse, and what the sender learns."""

from __future__ import annotations

import builtins
import json
import math
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import pytest

from signedwire import (
    NACKED,
    DeliveryState,
    Identity,
    JsonCodec,
    MemoryNetwork,
    Message,
    MessageRefusedError,
    MsgspecCodec,
    Node,
    Reason,
    SchemaError,
    SubjectRegistry,
    codec_for,
    decode_or_nack,
    subject_of,
    sync,
)
from signedwire.messaging import codecs

JSON = JsonCodec()
DEEPEST = codecs.MAX_DEPTH
LIMIT = 2.0
"""Seconds for the most expensive payload of 1 MiB; it takes less than 0.2 on a slow core."""


@dataclass
class Drive:
    speed: float
    turn: float = 0.0


class Pose(msgspec.Struct):
    x: float
    frame: str


def refused(codec: Any, data: bytes, type_: Any = object) -> str:
    """The text with which a codec refuses a payload: always short and printable."""
    with pytest.raises(SchemaError) as caught:
        codec.decode(data, type_)
    detail = caught.value.detail
    assert detail == str(caught.value)
    assert detail
    assert detail.isprintable()
    assert len(detail.encode()) <= 256
    return detail


class TestJson:
    @pytest.mark.parametrize(
        ("value", "encoded"),
        [
            (None, b"null"),
            (True, b"true"),
            (-7, b"-7"),
            (2**64 - 1, b"18446744073709551615"),
            (0.1, b"0.1"),
            (1e22, b"1e+22"),
            ("hé\n", b'"h\xc3\xa9\\n"'),
            ([], b"[]"),
            ({"b": [1, None], "a": {}}, b'{"a":{},"b":[1,null]}'),
        ],
    )
    def test_each_type_goes_there_and_back(self, value: object, encoded: bytes) -> None:
        assert JSON.encode(value) == encoded
        back = JSON.decode(encoded, type(value))
        assert back == value
        assert type(back) is type(value)
        assert JSON.decode(encoded, object) == value

    def test_equal_values_have_equal_bytes(self) -> None:
        assert JSON.encode({"a": 1, "b": 2}) == JSON.encode({"b": 2, "a": 1})

    def test_a_whole_number_is_a_float_where_one_is_expected(self) -> None:
        assert type(JSON.decode(b"3", float)) is float
        assert refused(JSON, b"3.0", int) == "expected int, got float - at $"
        assert refused(JSON, b"true", int) == "expected int, got bool - at $"
        assert refused(JSON, b"null", dict) == "expected dict, got None - at $"

    @pytest.mark.parametrize("type_", [list[int], Drive, bytes, tuple])
    def test_other_types_are_a_mistake_of_the_caller(self, type_: Any) -> None:
        with pytest.raises(TypeError, match="use MsgspecCodec"):
            JSON.decode(b"[]", type_)

    @pytest.mark.parametrize(
        ("value", "error", "says"),
        [
            (math.nan, ValueError, r"\$ is nan"),
            ({"a": [0, math.inf]}, ValueError, r"\$\.a\[1\] is inf"),
            (2**64, ValueError, "from -2"),
            (-(2**63) - 1, ValueError, "from -2"),
            pytest.param(10**5000, ValueError, "a number of", id="huge"),
            ("\ud800", ValueError, "lone surrogate"),
            ({"\udfff": 1}, ValueError, "lone surrogate"),
            ({1: 2}, TypeError, "keys of type str"),
            ((1,), TypeError, "of type tuple"),
            ({"a": b"x"}, TypeError, r"\$\.a is of type bytes"),
            (Drive(1), TypeError, "of type Drive"),
            (Reason.EXPIRED, TypeError, "of type Reason"),
        ],
    )
    def test_what_is_not_encoded(self, value: object, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            JSON.encode(value)

    def test_a_value_that_contains_itself_is_not_encoded(self) -> None:
        circle: list[object] = []
        circle.append(circle)
        with pytest.raises(ValueError, match="more than 64 deep"):
            JSON.encode(circle)

    def test_the_depth_has_one_limit_both_ways(self) -> None:
        data = b"[" * DEEPEST + b"]" * DEEPEST
        assert JSON.encode(JSON.decode(data, list)) == data
        assert refused(JSON, b"[" + data + b"]") == "lists and objects are more than 64 deep"
        with pytest.raises(ValueError, match="more than 64 deep"):
            JSON.encode([json.loads(data)])

    def test_brackets_in_texts_have_no_depth(self) -> None:
        text = '[{\\"' * 1000
        assert JSON.decode(JSON.encode([text]), list) == [text]

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "not JSON at character 0"),
            (b"nul", "not JSON at character 0"),
            (b"[1,]", "not JSON at character 3"),
            (b"1 2", "not JSON at character 2"),
            (b"\xef\xbb\xbf1", "not JSON at character 0"),
            ("1".encode("utf-16"), "not UTF-8 at byte 0"),
            (b'"\xed\xa0\x80"', "not UTF-8 at byte 1"),
            (b'"a\nb"', "control character"),
            (b"NaN", "NaN is no number"),
            (b"[-Infinity]", "-Infinity is no number"),
            (b"1e999", "too large"),
            (b"-1e999", "too large"),
            (b"18446744073709551616", "not from"),
            (b"-9223372036854775809", "not from"),
            (b'{"a":1,"b":{"k":1,"k":2}}', "key 'k' twice"),
            (b'["\\ud800"]', "lone surrogate"),
            (b'{"\\uDFFF\\uD800":1}', "lone surrogate"),
        ],
    )
    def test_what_is_not_strict_json(self, data: bytes, says: str) -> None:
        assert says.lower() in refused(JSON, data).lower()

    def test_a_pair_of_escapes_is_one_character(self) -> None:
        assert JSON.decode(b'"\\ud83d\\ude00"', str) == "\U0001f600"

    def test_random_values(self) -> None:
        seed = random.randrange(2**31)
        rng = random.Random(seed)

        def value(depth: int) -> object:
            leaves = (None, True, rng.randrange(-(2**63), 2**64), rng.uniform(-9, 9), "\u202e{é")
            kind = rng.randrange(7 if depth else 5)
            if kind < 5:
                return leaves[kind]
            items = [value(depth - 1) for _ in range(rng.randrange(4))]
            return items if kind == 5 else {f'k"{n}': item for n, item in enumerate(items)}

        for _ in range(300):
            given = value(5)
            assert JSON.decode(JSON.encode(given), object) == given, f"seed {seed}"


MIB = 2**20
HOSTILE = {
    "brackets": b"[" * MIB,
    "braces": b'{"a":' * (MIB // 5),
    "pairs of brackets": b"[" + b"[]," * (MIB // 3) + b"]x",
    "quotes": b'"\\"' * (MIB // 3),
    "backslashes": b'"' + b"\\" * MIB,
    "quotes that do not end": b'"' + b'\\"' * (MIB // 2),
    "digits": b"9" * MIB,
    "digits after a point": b"0." + b"1" * MIB,
    "an exponent": b"1e" + b"9" * MIB,
    "many numbers": b"[" + b"1e9," * (MIB // 4) + b"x",
    "keys": b"{" + b",".join(b'"%d":1' % n for n in range(MIB // 10)) + b',"0":1}',
    "one key": b'{"' + b"k" * MIB + b'":1,"' + b"k" * MIB + b'":1}',
    "surrogates": b'["' + b"\\ud800" * (MIB // 6) + b'"]',
    "bidi": b'"' + "\u202e".encode() * (MIB // 3),
    "zeros": bytes(MIB),
    "a bad end": b'"' + b"a" * MIB + b"\xff",
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("codec", [JSON, MsgspecCodec(), MsgspecCodec("msgpack")], ids=repr)
def test_hostile_payloads_have_a_bounded_cost(codec: Any, kind: str) -> None:
    for type_ in (dict,) if codec is JSON else (Drive, dict[str, Pose]):
        began = time.process_time()
        refused(codec, HOSTILE[kind], type_)
        assert time.process_time() - began < LIMIT


@pytest.mark.parametrize("head", [b"\x91", b"\x81\xa1a"])
def test_deep_msgpack(head: bytes) -> None:
    assert "deep" in refused(MsgspecCodec("msgpack"), head * 100_000, object)


class TestMsgspec:
    @pytest.mark.parametrize("format_", ["json", "msgpack"])
    @pytest.mark.parametrize("value", [Drive(0.5, -1), Pose(1.0, "map")], ids=repr)
    def test_there_and_back(self, format_: Any, value: Any) -> None:
        codec = MsgspecCodec(format_)
        assert codec.name == format_
        assert codec.decode(codec.encode(value), type(value)) == value

    @pytest.mark.parametrize("format_", ["json", "msgpack"])
    def test_the_error_names_the_field(self, format_: Any) -> None:
        codec = MsgspecCodec(format_)
        data = codec.encode([{"speed": 1}, {"speed": "fast"}])
        says = refused(codec, data, list[Drive])
        assert says.startswith("expected `float`, got `str`")
        assert says.endswith("`$[1].speed`")
        assert "missing required field `speed`" in refused(codec, codec.encode({}), Drive)

    def test_equal_values_have_equal_bytes(self) -> None:
        codec = MsgspecCodec()
        assert codec.encode({"a": {3, 1}, "b": 2}) == codec.encode({"b": 2, "a": {1, 3}})

    def test_text_of_a_stranger_in_an_error_is_harmless(self) -> None:
        class Strict(msgspec.Struct, forbid_unknown_fields=True):
            x: int

        for key in ("\u202egnp.exe", "\x1b[2J", "k" * 2**20, "é" * 1000):
            refused(MsgspecCodec(), json.dumps({"x": 1, key: 1}).encode(), Strict)

    def test_an_unknown_format(self) -> None:
        with pytest.raises(ValueError, match="known are json, msgpack"):
            MsgspecCodec("yaml")  # type: ignore[arg-type]


class TestDefaults:
    def test_by_type(self) -> None:
        for type_ in (Drive, Pose):
            assert repr(codec_for(type_)) == "MsgspecCodec('json')"
        for plain in (dict, list, str, object, type(None)):
            assert repr(codec_for(plain)) == "JsonCodec()"

    def test_the_extra_is_named_if_it_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = builtins.__import__

        def without(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.partition(".")[0] == "msgspec":
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ImportError, match=r"pip install 'signedwire\[msgspec\]'"):
            codec_for(Drive)
        assert codec_for(dict).name == "json"

    def test_nothing_imports_msgspec_until_it_is_used(self) -> None:
        code = (
            "import sys, signedwire as s; s.codec_for(dict).decode(b'{}', dict); "
            "assert 'msgspec' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# -- the text of the error -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "é" * 255, "é" * 256, "\u202e" * 300, "\ud800", "x" * 257, "x" * 256, "…" * 90]
)
def test_the_text_of_a_schema_error_fits_a_refusal(text: str) -> None:
    detail = SchemaError(text).detail
    assert detail.isprintable()
    assert len(detail.encode()) <= 256
    assert detail == text or not text.isprintable() or detail.endswith("…")


async def test_the_text_reaches_the_sender() -> None:
    network = MemoryNetwork(seed=1)
    async with (
        Node(Identity.generate(), network=network) as base,
        Node(Identity.generate(), network=network) as robot,
    ):
        base.routing.update(robot.did, robot.address)
        for payload in (b'{"speed":"fast"}', '{"\u202e":1'.encode(), b"[" * 100_000):
            receipt = await base.send(robot.did, payload)
            assert decode_or_nack(await robot.receive(), Drive) is NACKED
            with pytest.raises(MessageRefusedError) as caught:
                await receipt.wait("handled", 5)
            assert caught.value.reason is Reason.MALFORMED
            assert receipt.detail
            if payload == b'{"speed":"fast"}':
                assert receipt.detail == "expected `float`, got `str` - at `$.speed`"
                assert receipt.detail in str(caught.value)
        receipt = await base.send(robot.did, MsgspecCodec().encode(Drive(0.5)))
        message = await robot.receive()
        drive = decode_or_nack(message, Drive)
        assert drive is not NACKED
        assert drive.speed == 0.5  # mypy knows the type
        message.ack()
        await receipt.wait("handled", 5)


def test_in_threads_and_with_a_codec_of_ones_own() -> None:
    class Upper:
        name = "upper"

        def encode(self, value: object, /) -> bytes:
            return str(value).encode()

        def decode(self, data: bytes, type_: type[Any], /) -> Any:
            if data.islower():
                raise SchemaError("lower case - at $")
            return type_(data.decode())

    network = MemoryNetwork(seed=1)
    with (
        sync.Node(Identity.generate(), network=network) as base,
        sync.Node(Identity.generate(), network=network) as robot,
    ):
        base.routing.update(robot.did, robot.address)
        for payload, value in ((b"A", "A"), (b"a", NACKED)):
            receipt = base.send(robot.did, payload)
            message = robot.receive(5)
            assert decode_or_nack(message, str, Upper()) == value
            if value is NACKED:
                with pytest.raises(MessageRefusedError, match=r"lower case - at \$"):
                    receipt.result("handled", 5)
                assert receipt.state is DeliveryState.REFUSED


async def test_a_type_that_no_codec_knows_refuses_nothing() -> None:
    network = MemoryNetwork(seed=1)
    async with (
        Node(Identity.generate(), network=network) as base,
        Node(Identity.generate(), network=network) as robot,
    ):
        base.routing.update(robot.did, robot.address)
        receipt = await base.send(robot.did, b"[1]")
        message: Message = await robot.receive()
        with pytest.raises(TypeError, match="use MsgspecCodec"):
            decode_or_nack(message, list[int])
        assert decode_or_nack(message, list[int], MsgspecCodec()) == [1]
        message.ack()
        await receipt.wait("handled", 5)


# -- subjects --------------------------------------------------------------------------------


class TestSubjects:
    @pytest.mark.parametrize(
        ("name", "subject"),
        [
            ("Drive", "drive"),
            ("GetBattery", "get_battery"),
            ("EStop", "e_stop"),
            ("HTTPServer", "http_server"),
            ("Pose2D", "pose2d"),
            ("Pose2DStamped", "pose2d_stamped"),
            ("V2Pose", "v2_pose"),
            ("lower_case", "lower_case"),
            ("Ñandú", "ñandú"),
        ],
    )
    def test_the_name_of_the_class(self, name: str, subject: str) -> None:
        assert subject_of(type(name, (), {})) == subject

    def test_a_class_may_give_another_which_is_not_inherited(self) -> None:
        class Base:
            __subject__: ClassVar[str] = "motors/drive"

        class Derived(Base):
            pass

        assert subject_of(Base) == "motors/drive"
        assert subject_of(Derived) == "derived"

    @pytest.mark.parametrize("type_", [dict, list[int], object, None, "Drive", int | str])
    def test_builtin_types_need_one(self, type_: object) -> None:
        with pytest.raises(TypeError, match="give the subject"):
            subject_of(type_)
        with pytest.raises(TypeError, match="give the subject"):
            SubjectRegistry().register(type_)

    def test_both_directions(self) -> None:
        registry = SubjectRegistry()
        assert registry.register(Drive) == "drive"
        assert registry.register(Pose, "map/pose") == "map/pose"
        assert registry.register(Drive) == "drive"  # again
        assert (registry.type_of("drive"), registry.type_of("map/pose")) == (Drive, Pose)
        assert (registry.subject_of(Drive), registry.subject_of(Pose)) == ("drive", "map/pose")
        assert registry.type_of("pose") is None

    def test_two_types_on_one_subject(self) -> None:
        registry = SubjectRegistry()
        registry.register(Drive)
        other = type("Drive", (), {"__module__": "elsewhere"})
        with pytest.raises(
            ValueError, match=r"'drive' is that of test_codecs\.Drive, so elsewhere"
        ):
            registry.register(other)
        with pytest.raises(ValueError, match="so dict cannot have it"):
            registry.register(dict, "drive")
        assert registry.type_of("drive") is Drive
        assert registry.register(other, "drive2") == "drive2"

    def test_one_class_on_two_subjects(self) -> None:
        registry = SubjectRegistry()
        registry.register(Drive)
        with pytest.raises(ValueError, match="has the subject 'drive' already"):
            registry.register(Drive, "move")
        assert registry.type_of("move") is None

    def test_a_builtin_type_may_have_many(self) -> None:
        registry = SubjectRegistry()
        for subject in ("a", "b"):
            registry.register(dict, subject)
            registry.register(list[int], f"list {subject}")
        assert registry.type_of("b") is dict
        assert registry.type_of("list a") == list[int]

    @pytest.mark.parametrize("subject", ["", "a\nb", "x" * 256, "e\u0301"])
    def test_what_is_no_subject(self, subject: str) -> None:
        with pytest.raises(ValueError, match="subject"):
            SubjectRegistry().register(Drive, subject)
