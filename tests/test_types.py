"""DIDs, addresses and peers: what is read, what is refused, and in which words."""

from __future__ import annotations

import copy
import ipaddress
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add, crypto_sign_seed_keypair

from signedwire.errors import AddressError, DidError, SignedWireError
from signedwire.types import (
    Address,
    DeliveryState,
    Did,
    PayloadType,
    PeerState,
    Priority,
    Reason,
    known_did,
    parse_peer,
)

P = 2**255 - 19
SIGN_BIT = 1 << 255
# The key of the all-zero seed, in the two spellings in which it is published.
ZERO_SEED_HEX = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
ZERO_SEED_DID = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"

# All encodings of the eight points of small order: the eight canonical ones,
# then the six that are not (y not reduced, or x = 0 with a sign). "Taming the
# many EdDSAs", Chalkias et al. 2020 (https://eprint.iacr.org/2020/1244), appendix.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",  # order 1
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # order 2
    "0000000000000000000000000000000000000000000000000000000000000000",  # order 4
    "0000000000000000000000000000000000000000000000000000000000000080",  # order 4
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # order 8
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",  # order 8
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",  # order 8
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",  # order 8
    "0100000000000000000000000000000000000000000000000000000000000080",  # order 1
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # order 1
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",  # order 1
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",  # order 2
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # order 4
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",  # order 4
]
ORDER_8 = bytes.fromhex(SMALL_ORDER[6])

seeds = st.binary(min_size=32, max_size=32)
# Making a key and checking its point costs some 100 µs.
dids = seeds.map(lambda seed: Did(crypto_sign_seed_keypair(seed)[0]))
ports = st.integers(0, 65535)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_ABCXYZäß日", min_size=1, max_size=253)
ipv6_hosts = st.builds(
    lambda ip, scope: f"{ip}{scope}",
    st.ip_addresses(v=6),
    st.sampled_from(["", "", "%eth0", "%1"]),
)
hosts = names | st.ip_addresses(v=4).map(str) | ipv6_hosts
quiet = settings(deadline=None, max_examples=60)


def did_error(text: str) -> str:
    with pytest.raises(DidError) as caught:
        Did.parse(text)
    return str(caught.value)


def address_error(text: str) -> str:
    with pytest.raises(AddressError) as caught:
        Address.parse(text)
    return str(caught.value)


class TestDidSpellings:
    def test_published_pair(self) -> None:
        did = Did.parse(ZERO_SEED_HEX)
        assert str(did) == ZERO_SEED_DID
        assert did.hex() == ZERO_SEED_HEX
        assert bytes(did) == bytes.fromhex(ZERO_SEED_HEX)
        assert did.short == "did:key:z6MkiTBz…ooWp"
        assert repr(did) == f"Did('{ZERO_SEED_DID}')"

    @quiet
    @given(dids, st.sampled_from(["", " ", "\n", "\t "]))
    def test_all_spellings_round_trip(self, did: Did, space: str) -> None:
        for text in (str(did), str(did).removeprefix("did:key:"), did.hex(), did.hex().upper()):
            assert Did.parse(f"{space}{text}{space}") == did

    @quiet
    @given(dids, dids)
    def test_equality_hash_and_order_are_those_of_the_bytes(self, a: Did, b: Did) -> None:
        assert (a == b) == (bytes(a) == bytes(b))
        assert (a < b) == (bytes(a) < bytes(b))
        assert (a > b) == (bytes(a) > bytes(b))
        assert hash(a) == hash(Did(bytes(a)))

    @pytest.mark.parametrize(
        "fragment", ["#z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp", "#key-1", "#"]
    )
    def test_the_fragment_of_a_did_url_is_left_off(self, fragment: str) -> None:
        assert str(Did.parse(ZERO_SEED_DID + fragment)) == ZERO_SEED_DID
        assert str(Did.parse(ZERO_SEED_DID[8:] + fragment)) == ZERO_SEED_DID
        peer = parse_peer(f"{ZERO_SEED_DID}{fragment}@h:1")
        assert peer == (Did.parse(ZERO_SEED_DID), Address("h", 1))

    def test_is_equal_to_nothing_else(self) -> None:
        did = Did.parse(ZERO_SEED_HEX)
        assert did != bytes(did)
        assert did != str(did)
        with pytest.raises(TypeError):
            _ = did < 1

    def test_is_immutable_and_travels(self) -> None:
        did = Did.parse(ZERO_SEED_HEX)
        with pytest.raises(AttributeError, match="immutable"):
            did._raw = bytes(32)
        assert pickle.loads(pickle.dumps(did)) == did
        assert copy.deepcopy(did) == did

    def test_known_did_is_the_same_object_again(self) -> None:
        raw = bytes.fromhex(ZERO_SEED_HEX)
        assert known_did(raw) == Did(raw)
        assert known_did(raw) is known_did(bytes(bytearray(raw)))


class TestDidRefusals:
    @pytest.mark.parametrize("text", SMALL_ORDER)
    def test_small_order(self, text: str) -> None:
        assert did_error(text) == (
            f"{text!r} is not a DID: no key has this form. Copy the whole DID again"
        )
        with pytest.raises(DidError):
            known_did(bytes.fromhex(text))

    def test_there_are_fourteen_small_order_encodings(self) -> None:
        assert len(set(SMALL_ORDER)) == 14

    @pytest.mark.parametrize("sign", [0, SIGN_BIT])
    def test_every_non_canonical_y(self, sign: int) -> None:
        # y = p … 2^255 - 1 encodes the same coordinates as y - p = 0 … 18.
        for y in range(P, 2**255):
            with pytest.raises(DidError):
                Did((y | sign).to_bytes(32, "little"))

    @pytest.mark.parametrize("multiple", range(1, 8))
    def test_torsion_component(self, multiple: int) -> None:
        # 4 · T8 has order 2: libsodium before December 2025, and with it PyNaCl
        # before 1.6.2, took an honest key plus that point for a prime-order one
        # (CVE-2025-69277). If only this case fails, that is the cause.
        key = bytes.fromhex(ZERO_SEED_HEX)
        for _ in range(multiple):
            key = crypto_core_ed25519_add(key, ORDER_8)
        with pytest.raises(DidError):
            Did(key)

    def test_not_on_the_curve(self) -> None:
        with pytest.raises(DidError, match="not on the curve"):
            Did((2).to_bytes(32, "little"))

    @pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
    def test_wrong_length(self, length: int) -> None:
        with pytest.raises(DidError) as caught:
            Did(bytes(length))
        assert str(caught.value) == (
            f"a DID is 32 bytes, got {length}. "
            "Pass the raw Ed25519 public key, or use Did.parse() for text"
        )

    @quiet
    @given(dids, st.integers(4, 47), st.sampled_from("0OIl"))
    def test_character_outside_base58(self, did: Did, position: int, character: str) -> None:
        text = str(did).removeprefix("did:key:")
        typo = text[:position] + character + text[position + 1 :]
        assert did_error(typo) == (
            f"{typo!r} is not a DID: {character!r} is not a base58 character. "
            "Base58 has no 0, O, I or l: check for a typing error"
        )

    @quiet
    @given(dids, st.integers(4, 47))
    def test_lost_character(self, did: Did, position: int) -> None:
        text = str(did).removeprefix("did:key:")
        typo = text[:position] + text[position + 1 :]
        assert did_error(typo) == (
            f"{typo!r} is not a DID: it does not hold an Ed25519 public key. "
            "Was a character lost when it was copied?"
        )

    @quiet
    @given(dids)
    def test_doubled_character(self, did: Did) -> None:
        assert "it does not hold an Ed25519 public key" in did_error(f"{did}1")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "did:key:",
            "did:web:example.com",
            "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",  # secp256k1
            "did:did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
            "DID:KEY:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
            ZERO_SEED_HEX[:-1],
            "robot-7",
        ],
    )
    def test_other_text(self, text: str) -> None:
        assert did_error(text) == (
            f"{text!r} is not a DID. "
            "A DID is did:key:z6Mk…, z6Mk… or 64 hex digits; `signedwire id show` prints yours"
        )

    @pytest.mark.parametrize("text", ["g" * 64, "٠" * 64, "0x" + "a" * 62])
    def test_64_characters_that_are_not_hex(self, text: str) -> None:
        assert (
            did_error(text) == f"{text!r} is not a DID: 64 characters, but not all are hex digits"
        )

    def test_64_characters_with_spaces_inside(self) -> None:
        # bytes.fromhex() skips white space, so it is the length that is wrong here.
        assert "is not a DID" in did_error("ab" * 16 + "  " + "cd" * 15)

    @pytest.mark.parametrize(
        "text", ["a" * 100_000, "z6Mk" + "a" * 100_000, "did:key:z6Mk" + "0" * 100_000]
    )
    def test_huge_text_is_refused_and_not_repeated(self, text: str) -> None:
        assert len(did_error(text)) < 300

    def test_huge_padding_is_not_repeated(self) -> None:
        padding = " " * 100_000
        assert len(did_error(padding + "g" * 64)) < 300
        assert len(did_error(padding + "z6Mk0")) < 300

    @quiet
    @given(st.text(max_size=70) | st.text("z6Mkabc123", max_size=70).map("z6Mk".__add__))
    def test_any_text_is_a_did_or_a_did_error(self, text: str) -> None:
        try:
            did = Did.parse(text)
        except DidError:
            return
        assert Did.parse(str(did)) == did


class TestAddress:
    @quiet
    @given(hosts, ports)
    def test_round_trip(self, host: str, port: int) -> None:
        address = Address(host, port)
        assert Address.parse(str(address)) == address
        assert Address.parse(f" {address}\n") == address

    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [
            ("127.0.0.1:9001", "127.0.0.1", 9001),
            ("robot-7.local:0", "robot-7.local", 0),
            ("[::1]:65535", "::1", 65535),
            ("[fe80::1%eth0]:9001", "fe80::1%eth0", 9001),
            ("h:00080", "h", 80),
        ],
    )
    def test_read(self, text: str, host: str, port: int) -> None:
        assert Address.parse(text) == (host, port)

    def test_str_is_the_format_too(self) -> None:
        assert f"{Address('::1', 1)} {Address('h', 2)}" == "[::1]:1 h:2"

    @pytest.mark.parametrize("text", ["", ":", "host", ":9001", "9001", "[::1]"])
    def test_no_host_or_no_port(self, text: str) -> None:
        error = address_error(text)
        assert repr(text) in error
        assert "is not an address" in error

    @pytest.mark.parametrize("text", ["", "host", ":9001"])
    def test_missing_part_gets_an_example(self, text: str) -> None:
        assert address_error(text) == (
            f"{text!r} is not an address. Write host:port, for example 127.0.0.1:9001 or [::1]:9001"
        )

    @pytest.mark.parametrize("text", ["::1:9001", "fe80::1:9001"])
    def test_colon_outside_brackets(self, text: str) -> None:
        assert address_error(text) == (
            f"{text!r} is not an address: put an IPv6 host in brackets. For example [::1]:9001"
        )

    @pytest.mark.parametrize(
        ("text", "scheme"),
        [
            ("tcp://h:1", "tcp"),
            ("http://host:80", "http"),
            ("https://[::1]:1/path", "https"),
            ("tls://h", "tls"),
            ("://h:1", ""),
        ],
    )
    def test_a_scheme_is_to_be_left_away(self, text: str, scheme: str) -> None:
        assert address_error(text) == (
            f"{text!r} is not an address: it begins with a scheme. "
            f"Leave {scheme}:// away, and what follows the port"
        )

    @pytest.mark.parametrize("text", ["[::1]", "[fe80::1%eth0]"])
    def test_brackets_without_a_port(self, text: str) -> None:
        assert address_error(text) == (
            f"{text!r} is not an address: the port is missing. "
            f"Write it behind the bracket, for example {text}:9001"
        )

    @pytest.mark.parametrize("host", ["", "host", "1.2.3.4", ":::", "::g"])
    def test_brackets_around_something_else(self, host: str) -> None:
        assert address_error(f"[{host}]:1") == (
            f"'[{host}]:1' is not an address: {host!r} is not IPv6"
        )

    @pytest.mark.parametrize("host", ["a b", "a\0b", "a\u202eb", "a" * 254, "\udc80", "::1%a b"])
    def test_bad_host_name(self, host: str) -> None:
        text = f"[{host}]:1" if ":" in host else f"{host}:1"
        assert address_error(text).endswith("is not an address: bad host name")

    @pytest.mark.parametrize(
        "port", ["", "x", "-1", "+1", "65536", "99999", "1_0", "8 0", "8.0", "٨٠", "0x50", "000080"]
    )
    def test_bad_port(self, port: str) -> None:
        text = f"host:{port}"
        assert address_error(text) == (
            f"{text!r} is not an address: {port!r} is no port (0 to 65535)"
        )

    def test_huge_port_is_refused_and_not_repeated(self) -> None:
        # int() itself raises on more than 4300 digits.
        assert "is no port" in address_error("host:" + "1" * 5000)
        assert len(address_error("host:" + "1" * 5000)) < 300

    @pytest.mark.parametrize("text", ["a" * 100_000, "[" + ":" * 100_000 + "]:1"])
    def test_huge_text_is_not_repeated(self, text: str) -> None:
        assert len(address_error(text)) < 300

    @quiet
    @given(st.text(max_size=40) | st.text("[]:%0123456789abc.", max_size=40))
    def test_any_text_is_an_address_or_an_address_error(self, text: str) -> None:
        try:
            address = Address.parse(text)
        except AddressError:
            return
        assert 0 <= address.port <= 65535
        assert Address.parse(str(address)) == address
        if ":" in address.host:
            ipaddress.IPv6Address(address.host.partition("%")[0])


class TestParsePeer:
    @quiet
    @given(dids, st.none() | st.builds(Address, hosts, ports))
    def test_round_trip(self, did: Did, address: Address | None) -> None:
        suffix = "" if address is None else f"@{address}"
        assert parse_peer(f" {did}{suffix} ") == (did, address)
        assert parse_peer(f"{did.hex()}{suffix}") == (did, address)

    @pytest.mark.parametrize("text", ["", "@host:1", "nobody@host:1", "host:1"])
    def test_bad_did(self, text: str) -> None:
        with pytest.raises(DidError):
            parse_peer(text)

    @pytest.mark.parametrize("suffix", ["@", "@host", "@:1", "@host:x"])
    def test_bad_address(self, suffix: str) -> None:
        with pytest.raises(AddressError):
            parse_peer(ZERO_SEED_DID + suffix)


class TestEnums:
    def test_the_wire_values_of_v1(self) -> None:
        # wire-v1.md, offsets 104 and 105
        assert [p.name for p in sorted(Priority)] == ["LOW", "NORMAL", "HIGH", "CRITICAL"]
        assert [int(p) for p in Priority] == [0, 1, 2, 3]
        assert [(t.name, int(t)) for t in PayloadType] == [
            ("RAW", 0),
            ("ROBOT_COMMAND", 1),
            ("MODEL_WEIGHTS", 2),
            ("INFERENCE_RESULT", 3),
            ("SENSOR_FUSION", 4),
        ]

    @pytest.mark.parametrize("kind", [Reason, DeliveryState, PeerState])
    def test_words_are_plain_and_distinct(
        self, kind: type[Reason] | type[DeliveryState] | type[PeerState]
    ) -> None:
        words = [str(member) for member in kind]
        assert len(set(words)) == len(words)
        assert all(word == word.lower() and "_" not in word for word in words)


@pytest.mark.parametrize("character", ["\U000e3333", "\udcf3", "\x1b", "é", "x"])
@pytest.mark.parametrize("parse", [Address.parse, Did.parse])
def test_an_error_shows_little_of_a_long_text(
    parse: Callable[[str], object], character: str
) -> None:
    """Counted as it is shown: one character may be escaped as ten."""
    for text in (
        character * 200,
        f"{character * 200}://x:1",
        f"{character * 200}:{character * 99}",
    ):
        with pytest.raises(SignedWireError) as caught:
            parse(text)
        assert len(str(caught.value)) < 400
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("port", ["0", "9001"])
def test_a_star_is_no_host(port: str) -> None:
    with pytest.raises(AddressError, match=rf"write 0\.0\.0\.0:{port}, or \[::\]:{port}"):
        Address.parse(f"*:{port}")
