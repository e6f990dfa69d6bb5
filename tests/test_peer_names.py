"""Names: which there may be, where they work, and what an unknown one is told."""

from __future__ import annotations

import copy
import logging
import pickle
import time
from pathlib import Path

import pytest

from signedwire import (
    ConfigError,
    Did,
    DidError,
    Identity,
    MemoryNetwork,
    Names,
    Node,
    NotAllowedError,
    RoutingTable,
    TransportConfig,
    UnknownNameError,
    load_config,
    sync,
)
from signedwire.delivery.access import read_access_file
from signedwire.names import is_name

A, B = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
NAMES = Names({"robot-1": A.did, "base": B.did, "home": B.did})


class TestRules:
    @pytest.mark.parametrize("name", ["a", "robot-1", "lab.arm_2", "z6mk", "a" * 63, "nones"])
    def test_names(self, name: str) -> None:
        assert is_name(name)
        assert Names({name: A.did})[name] == A.did

    @pytest.mark.parametrize(
        "name",
        [
            *("", "1", "-a", ".a", "_a", "Robot", "a" * 64, "a b", "a@b", "a:1", "a,b", "a=b"),
            *("é", "а", "a\n", "a/b", "none", "all", str(A.did), str(A.did)[8:], A.did.hex()),
        ],
    )
    def test_what_is_no_name(self, name: str) -> None:
        assert not is_name(name)
        with pytest.raises(DidError, match="is not a name"):
            Names({name: A.did})

    def test_no_did_has_the_form_of_a_name(self) -> None:
        for n in range(200):
            did = Identity.from_seed(n.to_bytes(32, "big")).did
            for text in (str(did), str(did)[8:], did.hex()):
                assert not is_name(text)

    @pytest.mark.parametrize(
        ("did", "says"),
        [
            ("x", "robot-1: 'x' is not a DID"),
            (7, "robot-1: 7 is not a DID"),
            (None, "robot-1: None is not a DID"),
            ({"1": "x"}, "robot-1: its value is a table"),
        ],
    )
    def test_an_error_names_the_key(self, did: object, says: str) -> None:
        with pytest.raises(DidError, match=says):
            Names({"robot-1": did})  # type: ignore[dict-item]
        with pytest.raises(ConfigError, match=says):
            TransportConfig(names={"robot-1": did})  # type: ignore[dict-item]

    def test_two_names_of_one_did(self) -> None:
        assert NAMES["base"] == NAMES["home"] == B.did
        assert NAMES.name_of(B.did) == "base"  # the first

    def test_labels(self) -> None:
        stranger = Identity.from_seed(bytes(32)).did
        assert NAMES.label_of(A.did) == f"robot-1 ({A.did.short})"
        assert NAMES.label_of(stranger) == stranger.short
        assert NAMES.in_words(A.did) == f"robot-1 ({A.did})"
        assert NAMES.in_words(stranger) is stranger
        assert NAMES.in_words("base") == "base"
        assert NAMES.name_of(stranger) is None

    def test_local_names_win(self) -> None:
        both = Names({"robot-1": A.did}).over(Names({"robot-1": B.did, "base": B.did}))
        assert dict(both) == {"robot-1": A.did, "base": B.did}

    def test_equality_and_copies(self) -> None:
        assert Names({"home": B.did, "base": str(B.did), "robot-1": A.did.hex()}) == NAMES
        assert Names() != NAMES
        for same in (pickle.loads(pickle.dumps(NAMES)), copy.copy(NAMES), copy.deepcopy(NAMES)):
            assert same == NAMES
            assert hash(same) == hash(NAMES)
        config = TransportConfig(names=NAMES)
        assert pickle.loads(pickle.dumps(config)) == config


class TestLookup:
    @pytest.mark.parametrize(
        "value", [A.did, str(A.did), str(A.did)[8:], A.did.hex(), "robot-1", " robot-1\n"]
    )
    def test_each_way_to_give_a_peer(self, value: Did | str) -> None:
        assert NAMES.did_of(value) == A.did

    @pytest.mark.parametrize("value", ["robot-2", "robt-1", "Robot-1", "robot 1", "ROBOT1"])
    def test_an_unknown_name_lists_near_ones(self, value: str) -> None:
        with pytest.raises(UnknownNameError) as caught:
            NAMES.did_of(value)
        assert caught.value.fact == f"{value!r} is not a DID, and no peer has that name"
        assert "Did you mean robot-1? Names are written in the configuration" in str(caught.value)

    def test_a_name_that_is_like_no_other(self) -> None:
        for names in (NAMES, Names()):
            with pytest.raises(UnknownNameError, match=r"'xyz' .* no peer has that name\. Names"):
                names.did_of("xyz")

    @pytest.mark.parametrize("value", ["", "none", "did:key:z6Mk", "x" * 10**6, "é"])
    def test_what_is_neither(self, value: str) -> None:
        with pytest.raises(DidError, match="is not a DID") as caught:
            NAMES.did_of(value)
        assert not isinstance(caught.value, UnknownNameError)
        assert len(str(caught.value)) < 500

    def test_other_types(self) -> None:
        for value in (None, 7, b"robot-1", A):
            with pytest.raises(TypeError, match="a recipient is a Did or its text"):
                NAMES.did_of(value)

    def test_an_unknown_name_among_many_is_soon_found_out(self) -> None:
        many = Names({f"robot-{n}": A.did for n in range(100_000)})
        began = time.process_time()
        with pytest.raises(UnknownNameError, match="Did you mean robot-"):
            many.did_of("robot-x")
        assert time.process_time() - began < 3


class TestConfiguration:
    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "signedwire.toml"
        path.write_text(
            f'allow = ["robot-1", "{B.did}"]\nv1_peers = ["base"]\n'
            f'[names]\nrobot-1 = "{A.did}"\nbase = "{B.did.hex()}"\n"lab.arm" = "{B.did}"\n'
        )
        config = load_config(path, {})
        assert config.names == Names({"robot-1": A.did, "base": B.did, "lab.arm": B.did})
        assert config.allow == frozenset({A.did, B.did})
        assert config.v1_peers == frozenset({B.did})
        assert config == config.replace()

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('[names]\nR = "x"', "'R' is not a name"),
            ('[names]\nr = "x"', "r: 'x' is not a DID"),
            ('[names]\nlab.arm = "x"', 'Put quotes around a name with a dot: "lab.1"'),
            (f'[names]\nr = "{A.did}"\nr = "{B.did}"', "line 3"),
            ("names = 7", "a table of names"),
            ('names = ["a"]', "a table of names"),
            ('allow = ["robot-1"]', "'robot-1' is not a DID, and no peer has that name"),
            (f'deny = ["robt"]\n[names]\nrobot = "{A.did}"', "Did you mean robot"),
        ],
    )
    def test_what_is_wrong_in_a_file(self, tmp_path: Path, text: str, says: str) -> None:
        path = tmp_path / "signedwire.toml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(path, {})
        assert says in str(caught.value)
        assert str(path) in str(caught.value)

    def test_the_environment(self) -> None:
        environ = {
            "SIGNEDWIRE_NAMES": f"robot-1={A.did}, base = {B.did.hex()} ,",
            "SIGNEDWIRE_ALLOW": "robot-1,base",
        }
        config = load_config(None, environ)
        assert config.names == Names({"robot-1": A.did, "base": B.did})
        assert config.allow == frozenset({A.did, B.did})

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            (f"a={A.did},a={B.did}", "the name 'a' has two DIDs"),
            ("a", "a: '' is not a DID"),
            (f"={A.did}", "'' is not a name"),
        ],
    )
    def test_what_is_wrong_in_the_environment(self, value: str, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            load_config(None, {"SIGNEDWIRE_NAMES": value})


class TestFiles:
    def test_a_peers_file(self, tmp_path: Path) -> None:
        path = tmp_path / "peers.toml"
        path.write_text(f'[peers]\nrobot-1 = "h:1"\n"{B.did}" = "h:2"\n')
        table = RoutingTable.load(path, NAMES)
        assert [str(table.resolve(did)) for did in (A.did, B.did)] == ["h:1", "h:2"]
        with pytest.raises(ConfigError, match=r"peers\.robot-1: 'robot-1' is not a DID, and no"):
            RoutingTable.load(path)
        path.write_text(f'[peers]\nrobot-1 = "h:1"\n"{A.did}" = "h:2"\n')
        with pytest.raises(ConfigError, match="has a route already"):
            RoutingTable.load(path, {"robot-1": str(A.did)})

    def test_an_access_file(self, tmp_path: Path) -> None:
        path = tmp_path / "access"
        path.write_text(f"allow robot-1 # ours\nallow none\ndeny {B.did}\n")
        found = read_access_file(path, NAMES)
        assert found.allowed == frozenset({bytes(A.did)})
        assert found.denied == {bytes(B.did)}
        path.write_text("deny robt-1\n")
        with pytest.raises(ConfigError, match=r"line 1: 'robt-1' is not a DID.* mean robot-1"):
            read_access_file(path, NAMES)


async def test_every_call_of_a_node(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = MemoryNetwork(seed=1)
    config = TransportConfig(names={"robot-1": B.did, "me": A.did})
    caplog.set_level(logging.INFO)
    async with (
        Node(A, config, network=network, store=tmp_path / "a.db") as base,
        Node(B, network=network) as robot,
    ):
        base.routing.update(B.did, robot.address)
        await base.send("robot-1", b"1", until="accepted")
        await base.send_nowait("robot-1", b"2").wait("accepted", 5)
        await base.send_many("robot-1", [b"3"], until="accepted")
        for payload in (b"1", b"2", b"3"):
            message = await robot.receive(5)
            assert message.payload == payload
            message.ack()
        assert (await base.probe("robot-1")).did == B.did
        async for probe in base.probes("robot-1"):
            assert probe.did == B.did
            break
        peers = base.peers()
        assert peers["robot-1"] is peers[B.did]
        assert "robot-1" in peers
        assert "robot-2" not in peers
        assert peers.get("me") is None
        with pytest.raises(UnknownNameError):
            peers["robot-2"]
        assert (base.name_of(B.did), base.name_of(str(A.did))) == ("robot-1", "me")
        assert robot.name_of(B.did) is None
        assert list(await base.outbox.list("robot-1")) == []
        assert list(await base.dead.list("robot-1")) == []
        assert await base.outbox.retry("robot-1") >= 0
        with pytest.raises(UnknownNameError, match="Did you mean robot-1"):
            await base.send("robot-2", b"x")
        with pytest.raises(UnknownNameError):
            robot.send_nowait("robot-1", b"x")  # a name holds for one node alone
        base.access.deny("robot-1")
        assert base.access.is_denied("robot-1")
        assert base.access.is_denied(B.did)
        with pytest.raises(NotAllowedError):
            await base.send("robot-1", b"x")
        assert base.access.undeny("robot-1") == ()
        base.access.allow_only(["me"])
        assert base.access.is_denied("robot-1")
        with pytest.raises(UnknownNameError):
            base.access.deny("robot-2")
    assert f"linked with robot-1 ({B.did})" in caplog.text
    assert f"linked with {A.did}" in caplog.text  # the other node has no name for us


def test_in_threads() -> None:
    network = MemoryNetwork(seed=1)
    config = TransportConfig(names={"robot-1": B.did})
    with sync.Node(A, config, network=network) as base, sync.Node(B, network=network) as robot:
        base.routing.update(B.did, robot.address)
        base.send("robot-1", b"x")
        assert robot.receive(5).payload == b"x"
        assert base.name_of(B.did) == "robot-1"
        assert base.peers()["robot-1"].did == B.did
        assert base.probe("robot-1").did == B.did
        with pytest.raises(UnknownNameError, match="Did you mean robot-1"):
            base.send("robot1", b"x")
