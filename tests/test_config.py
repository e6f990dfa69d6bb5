"""`TransportConfig`: what it accepts, what it refuses, and in which words."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signedwire import Target
from signedwire import options as options_module
from signedwire.config import OPTIONS, PRESETS, TransportConfig
from signedwire.contradictions import PAIRS
from signedwire.errors import AddressError, ConfigError, DidError, SignedWireError
from signedwire.names import Names
from signedwire.options import Option, table_class
from signedwire.roles import Roles
from signedwire.subject_options import SubjectOptions
from signedwire.types import Address, Did, Priority, SignaturePolicy

# The public keys of RFC 8032, section 7.1, tests 1 to 3.
DIDS = [
    Did.parse("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
    Did.parse("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"),
    Did.parse("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"),
]

# More than any number that is allowed anywhere.
BEYOND = 1 + max(
    int(get_args(alternative)[1].most)
    for option in OPTIONS.values()
    for alternative in option.alternatives
    if get_origin(alternative) is Annotated and table_class(alternative) is None
)

addresses = st.builds(
    Address,
    st.sampled_from(["127.0.0.1", "robot-7.local", "::1", "0.0.0.0"]),
    st.integers(1, 65535),
)


subjects = st.builds(
    SubjectOptions,
    durable=st.sampled_from([None, False]),
    latest=st.sampled_from([False, True, 'a "key"']),
    priority=st.sampled_from([None, *Priority]),
    deadline=st.none() | st.floats(0.001, 1e9),
)


def valid(option: Option) -> st.SearchStrategy[Any]:
    """Values that the field of `option` holds, drawn from its annotation."""

    def of(alternative: Any) -> st.SearchStrategy[Any]:
        kind = get_origin(alternative)
        if (tables := table_class(alternative)) is Roles:
            dids = st.lists(st.sampled_from(DIDS))
            return st.dictionaries(st.sampled_from(["robot", "base.1"]), dids).map(tables)
        if tables is not None:
            return st.dictionaries(st.sampled_from(["", "pose", "arm/left"]), subjects).map(tables)
        if kind is Annotated:
            number, bounds = get_args(alternative)
            draw = st.integers if number is int else st.floats
            return draw(bounds.least, bounds.most)
        if kind is Literal:
            return st.sampled_from(get_args(alternative))
        if kind is frozenset:
            return st.frozensets(st.sampled_from(DIDS))
        if alternative is Names:
            names = st.sampled_from(["a", "robot-1", "x" * 63, "lab.arm_2"])
            return st.builds(Names, st.dictionaries(names, st.sampled_from(DIDS)))
        if alternative is Path:
            return st.sampled_from([Path("node.db"), Path("/var/lib/signedwire/node 1.db")])
        return addresses if alternative is Address else st.sampled_from(alternative)

    alternatives = st.one_of(*map(of, option.alternatives))
    return alternatives | st.none() if option.is_optional else alternatives


def valid_changes() -> st.SearchStrategy[dict[str, Any]]:
    """Any options, each with an allowed value, that also fit together."""
    drawn = st.fixed_dictionaries({}, optional={o.name: valid(o) for o in OPTIONS.values()})

    def fit(changes: dict[str, Any]) -> dict[str, Any]:
        if "ping_interval" in changes or "dead_timeout" in changes:
            dead = max(changes.get("dead_timeout", 15.0), 0.002)
            changes["dead_timeout"] = dead
            changes["ping_interval"] = min(changes.get("ping_interval", 5.0), dead / 2)
        if "credit_bytes" in changes or "max_payload_size" in changes:
            payload = changes.get("max_payload_size", 2**20)
            changes["credit_bytes"] = max(changes.get("credit_bytes", 2**21), payload + 413)
            for name in ("inbox_bytes", "outbox_bytes", "outbox_peer_bytes", "max_unacked_bytes"):
                changes[name] = max(changes.get(name, 2**28), payload + 413)
        for name in ("inbox_bytes", "outbox_bytes", "outbox_peer_bytes", "max_unacked_bytes"):
            if name in changes:
                changes[name] = max(changes[name], 2**20 + 413)
        for name in ("unmet_bytes", "unmet_peer_bytes"):
            if name in changes:
                least = changes.get("max_payload_size", 2**20) + 413
                changes[name] = max(changes[name], least)
        for name, other, *_ in PAIRS:
            # An inner limit stays at its default: alone that contradicts nothing.
            if name in changes and other in changes:
                del changes[name]
            elif name in changes and name != "ack":
                changes[name] = min(changes[name], OPTIONS[other].default)
        files = [name for name in ("store", "evidence", "access_file") if changes.get(name)]
        for name in files[1:]:  # there are fewer paths than files
            del changes[name]
        if "max_v1_payload_size" in changes or "max_frame_size" in changes:
            frame = changes.setdefault("max_frame_size", 2048)
            changes["max_v1_payload_size"] = min(
                changes.get("max_v1_payload_size", 1024), frame - 170
            )
        return changes

    return drawn.map(fit).filter(
        lambda changes: (
            changes.get("fallback") is None or changes["fallback"] != changes.get("listen")
        )
    )


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        TransportConfig(**changes)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def test_the_defaults_are_allowed_and_are_those_of_the_design() -> None:
    config = TransportConfig()
    assert config.listen == Address("127.0.0.1", 0)
    assert (config.fallback, config.verify_threads) == (None, None)
    assert (config.network, config.signatures) == ("tcp", "required")
    assert (config.wire, config.v1_peers) == ("auto", frozenset())
    assert (config.max_connections, config.send_queue_limit, config.critical_reserve) == (
        (10, 1000, 64)
    )
    assert (config.max_frame_size, config.max_v1_payload_size) == (2048, 1024)
    assert (config.max_payload_size, config.credit_messages) == (2**20, 4096)
    assert (config.credit_bytes, config.inbox_bytes) == (2 * 2**20, 64 * 2**20)
    assert (config.ping_interval, config.dead_timeout) == (5.0, 15.0)
    assert (config.max_attempts, config.retry_base_delay) == (3, 0.1)
    assert (config.store, config.ack) == (None, "manual")


@given(valid_changes())
def test_every_allowed_value_is_held_as_given(changes: dict[str, Any]) -> None:
    config = TransportConfig(**changes)
    for name in OPTIONS:
        held = getattr(config, name)
        assert held == changes.get(name, OPTIONS[name].default)
    assert config.replace() == config
    assert config == TransportConfig(**changes)
    assert hash(config) == hash(TransportConfig(**changes))
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


@given(st.data(), st.sampled_from(list(OPTIONS.values())))
def test_any_other_value_is_refused_by_name_value_and_range(
    data: st.DataObject, option: Option
) -> None:
    junk = st.one_of(
        st.just(math.nan),
        st.just(math.inf),
        st.just(-math.inf),
        st.integers(max_value=-1),
        st.integers(min_value=BEYOND),
        st.booleans(),
        st.binary(min_size=1),
        st.just(object),
        st.text(st.sampled_from("?! "), max_size=3),
        st.lists(st.integers(), min_size=1),
    )
    value = data.draw(junk)
    if Path in option.alternatives and isinstance(value, str):
        value = data.draw(st.sampled_from(["", "  ", "a\0b"]))  # any other text is a path
    with pytest.raises(ConfigError) as caught:
        TransportConfig(**{option.name: value})
    text = repr(value)[:90]
    if isinstance(value, bytes):  # they may be a key
        text = f"<{len(value)} bytes>"
    elif isinstance(value, int) and value.bit_length() > 200:
        text = f"<a number of {value.bit_length()} bits>"
    assert str(caught.value).startswith(f"{option.name}={text}")
    assert caught.value.hint.startswith(f"Expected {option.expected}")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"max_connections": 0},
            "max_connections=0 is not allowed. "
            "Expected a whole number of connections from 1 to 65_535",
        ),
        (
            {"max_attempts": True},
            "max_attempts=True is not allowed. "
            "Expected a whole number of attempts from 1 to 65_535",
        ),
        (
            {"inbox_limit": 5.0},
            "inbox_limit=5.0 is not allowed. "
            "Expected a whole number of messages from 1 to 1_000_000",
        ),
        (
            {"max_frame_size": 169},
            "max_frame_size=169 is not allowed. "
            "Expected a whole number of bytes from 170 to 16_777_215",
        ),
        (
            {"connect_timeout": 0},
            "connect_timeout=0 is not allowed. "
            "Expected a number of seconds from 0.001 to 86_400, or None",
        ),
        (
            {"close_timeout": None},
            "close_timeout=None is not allowed. Expected a number of seconds from 0.001 to 86_400",
        ),
        ({"retry_jitter": 1.5}, "retry_jitter=1.5 is not allowed. Expected a number from 0 to 1"),
        (
            {"listen": "localhost"},
            "listen='localhost' is not allowed: 'localhost' is not an address. Expected "
            "host:port, or None. Write host:port, for example 127.0.0.1:9001 or [::1]:9001",
        ),
        (
            {"listen": Address("a host", 1)},
            "listen=Address(host='a host', port=1) is not allowed: "
            "'a host:1' is not an address: bad host name. Expected host:port, or None",
        ),
        (
            {"fallback": 9001},
            "fallback=9001 is not allowed: 9001 is not an address. Expected host:port, or None. "
            "Give an Address or host:port",
        ),
        (
            {"signatures": "never"},
            "signatures='never' is not allowed. Expected required or if-present",
        ),
        ({"network": ["tcp"]}, "network=['tcp'] is not allowed. Expected tcp or unix or memory"),
        (
            {"v1_peers": "al"},
            "v1_peers='al' is not allowed. Expected all, or a list of DIDs or names",
        ),
        (
            {"v1_peers": ["robot"]},
            "v1_peers=['robot'] is not allowed: 'robot' is not a DID, and no peer has that name. "
            "Expected all, or a list of DIDs or names. Names are written in the configuration: "
            '[names], then robot-1 = "did:key:…". A DID is did:key:z6Mk…, z6Mk… or 64 hex digits; '
            "`signedwire id show` prints yours",
        ),
        (
            {"v1_peers": [7]},
            "v1_peers=[7] is not allowed: 7 is not a DID. "
            "Expected all, or a list of DIDs or names. Give a Did or its text",
        ),
        (
            {"max_v1_payload_size": 1024, "max_frame_size": 1000},
            "max_v1_payload_size=1024 does not fit into a frame of max_frame_size=1000. "
            "Expected at most 830, which is max_frame_size - 170",
        ),
        (
            {"credit_bytes": 1023},
            "credit_bytes=1023 is not allowed. "
            "Expected a whole number of bytes from 1_024 to 17_179_869_184",
        ),
        (
            {"ping_interval": 2, "dead_timeout": 2},
            "dead_timeout=2.0 is not more than ping_interval=2.0, "
            "so a silent link would end before its PING. Expected about three times ping_interval",
        ),
        (
            {"fallback": "10.0.0.9:0"},
            "fallback='10.0.0.9:0' is not allowed: a node cannot be dialed at port 0. "
            "Expected a port from 1 to 65_535",
        ),
        (
            {"listen": "10.0.0.9:9001", "fallback": "10.0.0.9:9001"},
            "fallback='10.0.0.9:9001' is not allowed: "
            "it is `listen`, so messages would come back to this node. "
            "Expected another node's host:port, or None",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_refusal_says_what_to_write_instead(changes: dict[str, Any], text: str) -> None:
    assert refusal(**changes) == text


def test_a_long_value_is_shortened() -> None:
    assert refusal(network="x" * 5000) == (
        f"network='{'x' * 98}… is not allowed. Expected tcp or unix or memory"
    )


def test_text_is_read_where_a_field_holds_more_than_text() -> None:
    config = TransportConfig(
        listen="127.0.0.1:9001", fallback="[::1]:9002", v1_peers=[DIDS[0].hex(), DIDS[1]]
    )
    # Under mypy --strict these show that the fields are read as they are held.
    listen: Target | None = config.listen
    peers: Literal["all"] | frozenset[Did] = config.v1_peers
    assert listen == Address("127.0.0.1", 9001)
    assert peers == frozenset(DIDS[:2])
    assert config.fallback == Address("::1", 9002)
    assert dataclasses.replace(config, listen="h:1").listen == Address("h", 1)
    assert TransportConfig(v1_peers=(did for did in DIDS)).v1_peers == frozenset(DIDS)
    assert TransportConfig(v1_peers=()).v1_peers == frozenset()
    by_word = config.replace(signatures="if-present")
    assert by_word.signatures is SignaturePolicy.IF_PRESENT


def test_a_whole_number_of_seconds_becomes_a_float() -> None:
    held = TransportConfig(connect_timeout=5).connect_timeout
    assert (held, type(held)) == (5.0, float)


def test_a_configuration_is_immutable_and_a_change_makes_a_checked_copy() -> None:
    config = TransportConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_attempts = 5  # type: ignore[misc]
    changed = config.replace(max_attempts=5)
    assert (config.max_attempts, changed.max_attempts) == (3, 5)
    with pytest.raises(ConfigError, match=r"^max_attempts=0 is not allowed"):
        config.replace(max_attempts=0)


def test_a_field_descriptor_refuses_assignment() -> None:
    field = options_module.Given[str, str]("x")
    assert field.__get__(None) == "x"
    with pytest.raises(AttributeError, match="use replace"):
        field.__set__(None, "y")


def test_presets() -> None:
    development = TransportConfig.development()
    assert (development.network, development.signatures) == ("memory", "if-present")
    lightweight = TransportConfig.lightweight()
    assert (lightweight.network, lightweight.signatures) == ("tcp", "if-present")
    assert lightweight.v1_peers == "all"
    production = TransportConfig.production()
    assert (production.network, production.signatures) == ("tcp", "required")
    assert production.v1_peers == frozenset()
    assert TransportConfig.production(v1_peers=DIDS).v1_peers == frozenset(DIDS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_classmethod_and_takes_changes(name: str) -> None:
    made = TransportConfig.preset(name, max_attempts=7, listen=None)
    assert made == getattr(TransportConfig, name)(max_attempts=7, listen=None)
    assert (made.max_attempts, made.listen) == (7, None)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        TransportConfig.preset("produktion")
    assert str(caught.value) == "unknown preset 'produktion'. Did you mean production?"
    with pytest.raises(ConfigError) as caught:
        TransportConfig.preset("fast")
    assert str(caught.value) == (
        "unknown preset 'fast'. Known are development, lightweight, production"
    )
    for make in (TransportConfig.development, TransportConfig().replace):
        with pytest.raises(ConfigError) as caught:
            make(max_atempts=3)  # type: ignore[call-arg]
        assert str(caught.value) == "unknown option 'max_atempts'. Did you mean max_attempts?"


@pytest.mark.parametrize(
    ("read", "error", "text"),
    [
        (options_module.read_did, DidError, "7 is not a DID. Give a Did or its text"),
        (
            options_module.read_target,
            AddressError,
            "7 is not an address. Give an Address or host:port",
        ),
    ],
)
def test_readers_refuse_other_types(read: Any, error: type[SignedWireError], text: str) -> None:
    with pytest.raises(error) as caught:
        read(7)
    assert str(caught.value) == text
