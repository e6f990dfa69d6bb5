"""The driver of the live v1 peer, by two live peers that talk to each other."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from v1_peer import Mode, V1Peer, V1PeerGone, free_port, require_omnimesh

require_omnimesh()


@pytest.fixture
def alice() -> Iterator[V1Peer]:
    with V1Peer("production") as peer:
        yield peer


@pytest.fixture(params=["production", "lightweight"])
def bob(request: pytest.FixtureRequest, alice: V1Peer) -> Iterator[V1Peer]:
    mode: Mode = request.param
    with V1Peer(mode) as peer:
        alice.register_peer(peer.did, peer.address)
        peer.register_peer(alice.did, alice.address)
        yield peer


def test_every_kind_that_a_client_can_send(alice: V1Peer, bob: V1Peer) -> None:
    alice.send_agent_command(bob.did, "pick", b"robot-1", b"A12")
    alice.send_motion_command(bob.did, linear=(1.5, 0, -0.25), angular=(0, 0, 0.5), deadline_ns=9)
    alice.send_heartbeat(bob.did, uptime_ms=60000, cpu=75, mem_kb=4096, epoch=1)
    alice.send_llm_query(bob.did, "Which way?", "You navigate.", "llama3")

    messages = bob.receive_many(4, timeout=5)

    for message in messages:
        assert message.pop("sender_did") == alice.did
        assert message.pop("received_at_us") > 0
    assert messages == [
        {
            "type": "agent_command",
            "command_type": "pick",
            "target_did": b"robot-1".hex(),
            "payload": list(b"A12"),
        },
        {
            "type": "motion_command",
            "linear_x": 1.5,
            "linear_y": 0.0,
            "linear_z": -0.25,
            "angular_x": 0.0,
            "angular_y": 0.0,
            "angular_z": 0.5,
            "deadline_ns": 9,
        },
        {
            "type": "heartbeat",
            "uptime_ms": 60000,
            "cpu_usage": 75,
            "mem_usage_kb": 4096,
            "epoch": 1,
        },
        {
            "type": "llm_query",
            "prompt": "Which way?",
            "system_prompt": "You navigate.",
            "model": "llama3",
        },
    ]


def test_both_directions(alice: V1Peer, bob: V1Peer) -> None:
    bob.send_agent_command(alice.did, "done")
    message = alice.receive(timeout=5)
    assert message is not None
    assert (message["command_type"], message["sender_did"]) == ("done", bob.did)


def test_volume_in_order(alice: V1Peer, bob: V1Peer) -> None:
    count = 3000
    received: list[dict[str, object]] = []
    reader = threading.Thread(target=lambda: received.extend(bob.receive_many(count, timeout=10)))
    reader.start()
    seconds = alice.send_many(bob.did, count, payload_data=b"x")
    reader.join(timeout=20)
    assert 0 < seconds < 10
    assert [int(str(message["target_did"]), 16) for message in received] == list(range(count))


def test_nothing_to_receive(alice: V1Peer) -> None:
    started_at = time.monotonic()
    assert alice.receive(timeout=0.05) is None
    assert alice.receive_many(3, timeout=0.05) == []
    assert alice.inbox_len() == 0
    assert 0.1 <= time.monotonic() - started_at < 5


def test_the_errors_of_the_client_come_through(alice: V1Peer) -> None:
    with pytest.raises(ValueError, match="Invalid DID hex"):
        alice.send_agent_command("zz", "pick")
    with pytest.raises(ValueError, match=r"Payload too large: \d+ bytes \(max 1024\)"):
        alice.send_agent_command("22" * 32, "pick", payload_data=bytes(1024))
    with pytest.raises(OverflowError):
        alice.send_heartbeat("22" * 32, cpu=-1)
    assert alice.receive(timeout=0) is None, "still in step after errors"


def test_a_restart_keeps_the_port_and_changes_the_did(alice: V1Peer) -> None:
    did, port, pid = alice.did, alice.port, alice.pid
    alice.restart()
    assert alice.port == port
    assert alice.did != did
    assert alice.pid != pid
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        pass


def test_kill_and_close_leave_no_process_and_no_listener() -> None:
    peer = V1Peer().start()
    pid, port = peer.pid, peer.port
    peer.kill()
    assert not peer.is_running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    with pytest.raises(V1PeerGone, match=r"receive_many called on .* not running"):
        peer.receive(timeout=1)
    peer.close()
    peer.close()


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(V1PeerGone, match="listen"):
        V1Peer().start(taken.getsockname()[1])


def test_a_child_that_freezes_is_killed(alice: V1Peer) -> None:
    """A receiver that reads nothing: the client then blocks for ever with the GIL held."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        # A small buffer, so that it is full long before the child would be done (half a second).
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        alice.register_peer("22" * 32, f"127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(V1PeerGone, match=r"send_many on .* got no answer"):
            alice.send_many("22" * 32, 12_000, payload_data=bytes(900), timeout=2)
    assert not alice.is_running


def test_it_runs_once_at_a_time(alice: V1Peer) -> None:
    with pytest.raises(RuntimeError, match="runs already"):
        alice.start()
    assert f"on port {alice.port}, pid {alice.pid}" in repr(alice)


def test_before_the_first_start() -> None:
    peer = V1Peer("lightweight")
    for name in ("did", "port", "address", "pid"):
        with pytest.raises(V1PeerGone):
            getattr(peer, name)
    assert peer.output() == ""
    peer.close()


def test_a_free_port_can_be_bound() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_where_omnimesh_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "omnimesh", None)
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="needs omnimesh"):
        require_omnimesh()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs omnimesh"):
        require_omnimesh()
