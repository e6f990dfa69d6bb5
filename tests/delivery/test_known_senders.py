"""`KnownSenders`: who comes before strangers, and from when to when."""

from __future__ import annotations

from pathlib import Path

from signedwire import RoutingTable, TransportConfig
from signedwire.delivery.access import AccessList
from signedwire.delivery.known_senders import KnownSenders
from wirekit import ALICE, BOB, CAROL


def known(config: TransportConfig) -> tuple[KnownSenders, RoutingTable, AccessList]:
    routes, access = RoutingTable(), AccessList(config)
    return KnownSenders(config, routes, access), routes, access


def test_who_has_a_route() -> None:
    senders, routes, _ = known(TransportConfig())
    assert ALICE.did not in senders
    routes.update(ALICE.did, "127.0.0.1:9")
    assert ALICE.did in senders
    assert BOB.did not in senders
    routes.remove(ALICE.did)
    assert ALICE.did not in senders


def test_the_fallback_is_no_route() -> None:
    senders, _, _ = known(TransportConfig(fallback="127.0.0.1:9"))
    assert ALICE.did not in senders


def test_whom_an_allow_list_names(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text(f"allow {BOB.did}\n", "utf-8")
    senders, _, access = known(TransportConfig(allow=[ALICE.did], access_file=path))
    access.reload()
    assert ALICE.did in senders
    assert BOB.did in senders
    assert CAROL.did not in senders
    access.allow_only([CAROL.did])
    assert CAROL.did in senders
    access.allow_only(None)
    assert CAROL.did not in senders


def test_a_denial_names_nobody() -> None:
    senders, _, access = known(TransportConfig(deny=[ALICE.did]))
    access.deny(BOB.did)
    assert ALICE.did not in senders
    assert BOB.did not in senders


def test_whom_v1_peers_names() -> None:
    senders, _, _ = known(TransportConfig(v1_peers=[ALICE.did]))
    assert ALICE.did in senders
    assert BOB.did not in senders
    everybody, _, _ = known(TransportConfig(v1_peers="all"))
    assert ALICE.did not in everybody
