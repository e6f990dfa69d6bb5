"""Targets: text for networks with and without ports, where a configuration or a table has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signedwire import Address, AddressError, Location, RoutingTable, TransportConfig
from signedwire.types import parse_peer, parse_target
from wirekit import ALICE, BOB

schemes = st.from_regex(r"[a-z][a-z0-9+.-]{0,31}", fullmatch=True)
paths = st.text(st.characters(categories=["L", "N", "P"]), max_size=80).map(lambda text: f"/{text}")


@given(schemes, paths.filter(lambda path: not path.startswith("//")))
def test_a_location_is_read_as_it_is_written(scheme: str, path: str) -> None:
    location = Location(scheme, path)
    assert Location.parse(str(location)) == parse_target(f" {location}\n") == location


def test_host_and_port_stay_an_address() -> None:
    assert parse_target("unix:9001") == Address("unix", 9001)
    assert parse_target("[::1]:9001") == Address("::1", 9001)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unix:run/x.sock", "a Unix socket has an absolute path. Write unix:/run/robot.sock"),
        ("unix:@abstract", "names without a file are not supported"),
        ("unix:", "a Unix socket has an absolute path"),
        ("unix://run/x.sock", "A path begins with one slash: unix:/run/robot.sock"),
        ("unix:/run/\0x", "is not a location"),
        ("unix:/run/a\nb", "is not a location"),
        ("unix:/" + "x" * 1024, "is not a location"),
        ("tcp://host:9001", "begins with a scheme. Leave tcp:// away"),
    ],
)
def test_what_is_no_target(text: str, words: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_target(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("wrong", [7, None, b"unix:/x"])
def test_no_text(wrong: Any) -> None:
    with pytest.raises(TypeError):
        Location.parse(wrong)
    with pytest.raises(TypeError):
        parse_target(wrong)


def test_a_table_keeps_it(tmp_path: Path) -> None:
    table = RoutingTable({ALICE.did: "unix:/run/robot one.sock", BOB.did: "host:1"})
    assert table.resolve(ALICE.did) == Location("unix", "/run/robot one.sock")
    table.save(tmp_path / "peers.toml")
    assert dict(RoutingTable.load(tmp_path / "peers.toml")) == dict(table)
    with pytest.raises(AddressError):
        table.update(ALICE.did, Location("no scheme", "relative"))


def test_a_configuration_takes_it() -> None:
    config = TransportConfig(listen="unix:/run/a.sock", fallback=Location("unix", "/run/b.sock"))
    assert (config.listen, config.fallback) == (("unix", "/run/a.sock"), ("unix", "/run/b.sock"))
    assert parse_peer(f"{BOB.did}@unix:/run/b.sock") == (BOB.did, config.fallback)
