"""`signedwire listen`: real processes, since signals and pipes are its nature."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clikit import LIMIT, Process, expect_one_sentence, isolate, listener, run, start_listening

from signedwire import Identity, Priority, SignedEnvelope, TransportConfig, payloads
from signedwire.sync import Node
from signedwire.types import Address, parse_peer
from signedwire.wire.frames import encode_frame


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


@pytest.fixture
def alice() -> Node:
    return Node(Identity.generate(), TransportConfig(listen=None))


def address_of(peer: str) -> Address:
    address = parse_peer(peer)[1]
    assert isinstance(address, Address)
    return address


def write_frames(peer: str, *frames: bytes) -> None:
    """Bytes that a stranger's socket may send."""
    import socket

    with socket.create_connection(address_of(peer), LIMIT) as connection:
        connection.sendall(b"".join(map(encode_frame, frames)))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # until it has closed, having dealt with them


def test_the_first_minutes_of_a_user(tmp_path: Path, key: Path) -> None:
    """The line that it prints is pasted elsewhere; what came is saved and checked."""
    log = tmp_path / "log.jsonl"
    process, peer = start_listening("--json", "--count", "3")
    with process:
        assert key.exists()
        assert process.json() == {
            "event": "listening",
            "did": peer.partition("@")[0],
            "address": peer.partition("@")[2],
            "peer": peer,
        }
        # Another user, with a key of his own.
        bob = str(tmp_path / "bob.pem")
        Identity.generate().save(bob)
        with Process("send", peer, "hello", "--identity", bob) as sender:
            assert sender.wait() == 0
        run("send", peer, "[bold]\x1b[31m", "--priority", "high", "--identity", bob)
        run("send", peer, "--heartbeat", "--identity", bob)
        lines = [process.line() for _ in range(4)]
        assert process.wait() == 0
    log.write_text("\n".join(lines))
    assert '"event": "summary", "messages": 3, "dropped": {}' in lines[-1]
    assert all(line.isascii() and "\x1b" not in line for line in lines)
    ran = run("verify", log, "--json")
    assert ran.exit_code == 0, ran
    sender_did = run("id", "show", bob).stdout.strip()
    assert [found["payload"] for found in ran.objects[:2]] == ["hello", "[bold]\x1b[31m"]
    assert {found["sender"] for found in ran.objects} == {sender_did}
    log.write_text(log.read_text().replace('"hello"', '"howdy"'))
    assert run("verify", log).exit_code == 1


def test_a_message_is_one_json_object(alice: Node) -> None:
    process, peer = start_listening("--json")
    with process, alice:
        process.json()
        did, _ = parse_peer(peer)
        alice.routing.update(did, address_of(peer))
        motion = payloads.MotionCommand(linear=payloads.Vector3(x=0.1))
        alice.send(did, payloads.encode(motion), priority=Priority.LOW)
        message = process.json()
    envelope = SignedEnvelope.decode(bytes.fromhex(message.pop("envelope")))
    envelope.verify()
    assert message.pop("received_at_us") > 0
    assert message == {
        "event": "message",
        "sender": str(alice.did),
        "is_proven": True,
        "recipient": str(did),
        "sequence_number": 1,
        "message_id": envelope.message_id.hex(),
        "timestamp_us": envelope.timestamp_us,
        "version": 9,
        "wire": "v2",
        "epoch": envelope.epoch,
        "expires_at_us": None,
        "is_receipted": True,
        "is_redelivered": False,
        "kind": "message",
        "subject": "",
        "is_durable": True,
        "priority": "low",
        "payload_type": "raw",
        "size": len(envelope.payload),
        "encoding": "hex",
        "payload": "12070a050dcdcccc3d",
        "decoded": {"kind": "motion_command", "linear": {"x": 0.1}},
    }


def test_lines_for_people_are_harmless_and_ctrl_c_sums_up(alice: Node) -> None:
    process, peer = start_listening()
    with process, alice:
        did, _ = parse_peer(peer)
        alice.routing.update(did, address_of(peer))
        for payload in (b"[bold]plain[/bold]", b"\x1b[2J\x1b]0;x\x07", "rtl \u202e x".encode()):
            alice.send(did, payload)
        shown = [process.line() for _ in range(3)]
        process.interrupt()
        assert process.wait() == 130
        assert process.rest("stdout") == []
        assert process.rest("stderr") == ["received 3 messages", "signedwire: interrupted."]
    for line in shown:
        assert line.isprintable()
        assert f"  {alice.did.short}  normal    " in line
    assert shown[0].endswith("  [bold]plain[/bold]")
    assert shown[1].endswith("  hex 1b5b324a1b5d303b7807")


def test_unsigned_is_dropped_and_counted_or_shown_as_unproven() -> None:
    claimed = Identity.generate().did
    for args in (("--v1",), ("--allow-unsigned", "--count", "1")):
        process, peer = start_listening(*args)
        with process:
            unsigned = SignedEnvelope.unsigned(
                claimed, parse_peer(peer)[0], b"trust me", sequence_number=1
            )
            write_frames(peer, unsigned.encode())
            if "--count" in args:
                line = process.line()
                assert "  unproven               normal    trust me" in line
                assert claimed.short not in line
                assert process.wait() == 0
            else:
                process.terminate()
                assert process.wait() == -signal.SIGTERM
                *told, summary = process.rest("stderr")
                assert summary == "received 0 messages; dropped: 1 unsigned"
                # Told when it happens, which the signal may have overtaken.
                assert len(told) <= 1
                assert all(line.startswith("dropped: unsigned (") for line in told)


def test_verbose_says_who_comes_and_goes() -> None:
    process, peer = start_listening("-v")
    with process:
        with Node(Identity.generate(), TransportConfig(listen=None)) as alice:
            did, address = parse_peer(peer)
            assert address is not None
            alice.routing.update(did, address)
            alice.send(did, b"x")
            assert f"INFO signedwire.transport: linked with {alice.did} (127.0.0.1:" in (
                process.line("stderr")
            )
        ended = process.line("stderr")
        assert f"INFO signedwire.transport: the link with {alice.did}" in ended
        assert "ended: the peer closed the link with code 0 (it is closing): the node is" in ended
        process.terminate()
        assert process.wait() == -signal.SIGTERM


def test_v1_senders_need_the_option() -> None:
    for args in ((), ("--v1", "--json", "--count", "1")):
        process, peer = start_listening(*args)
        with process:
            did = parse_peer(peer)[0]
            envelope = SignedEnvelope.sign(Identity.generate(), did, b"old", sequence_number=1)
            if args:
                write_frames(peer, envelope.encode())
                process.json()
                message = process.json()
                assert (message["wire"], message["is_receipted"]) == ("v1", False)
                assert message["payload"] == "old"
                assert process.wait() == 0
            else:
                with contextlib.suppress(ConnectionError):
                    write_frames(peer, envelope.encode())
                process.terminate()
                assert process.wait() == -signal.SIGTERM
                *told, summary = process.rest("stderr")
                assert summary == "received 0 messages; dropped: 1 wrong protocol"
                # Told when it happens, which the signal may have overtaken.
                assert len(told) <= 1
                assert all(line.startswith("dropped: wrong protocol (") for line in told)


def test_the_last_sender_gets_its_receipt_and_the_word_that_it_is_handled(alice: Node) -> None:
    with alice:
        for _ in range(3):
            process, peer = start_listening("--count", "1")
            with process:
                did, _ = parse_peer(peer)
                alice.routing.update(did, address_of(peer))
                receipt = alice.send(did, b"x", until="handled")
                assert receipt.is_confirmed
                assert process.wait() == 0


def test_verbose_logs_to_stderr() -> None:
    process, peer = start_listening("-v", "--v1")
    with process:
        write_frames(peer, b"\x1b" * 200)
        assert "DEBUG signedwire.transport: dropped" in process.line("stderr")
        process.interrupt()
        assert process.wait() == 130


def test_a_time_limit() -> None:
    ran = run("listen", "--timeout", "0.05")
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert ran.stderr.endswith("received 0 messages\n")
    ran = run("listen", "--timeout", "0.05", "--count", "2", "--json")
    assert ran.exit_code == 5
    assert '"0 of 2 messages came within 0.05 s"' in ran.stderr


@pytest.mark.parametrize("seconds", ["inf", "1e300", "2e9"])
def test_a_time_limit_may_be_as_long_as_one_likes(seconds: str) -> None:
    process, _ = start_listening("--timeout", seconds)
    with process:
        process.interrupt()
        assert process.wait() == 130


def test_an_address_that_cannot_be_had() -> None:
    run("id", "new")
    with listener() as other:
        ran = run("listen", "--listen", str(other.address))
        told = f"cannot listen on {other.address}: the port is in use"
        expect_one_sentence(ran, 10, told, "port")


def test_a_second_listener_is_told_what_to_do() -> None:
    process, peer = start_listening()
    with process:
        at = ("--listen", str(parse_peer(peer)[1]))
        for args in (at, ()):
            ran = run("listen", *args, "--timeout", "1")
            expect_one_sentence(ran, 9, "has it open", "`signedwire id new FILE`", "--identity")
        ran = run("listen", *at, "--no-store", "--timeout", "1")
        expect_one_sentence(ran, 10, "the port is in use", "choose another, or use port 0")


def test_listening_everywhere_it_names_an_address_that_can_be_dialed() -> None:
    ran = run("listen", "--listen", "0.0.0.0:0", "--timeout", "0.01", "--json")
    assert ran.exit_code == 0, ran
    address = Address.parse(ran.objects[0]["address"])
    assert address.host != "0.0.0.0"
    assert address.port > 0


def test_a_reader_that_leaves_ends_it_quietly(alice: Node) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(input())"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as head:
        assert head.stdin is not None
        process = Process("listen", stdout=head.stdin)
        head.stdin.close()
        with process, alice:
            for _ in range(3):  # made a new identity, a new store; listening
                process.line("stderr")
            peer = process.line("stderr").split()[2]
            did, _ = parse_peer(peer)
            alice.routing.update(did, address_of(peer))
            alice.send(did, b"one")
            assert head.wait(LIMIT) == 0
            alice.send(did, b"two")
            assert process.wait() == 141
            assert process.rest("stderr") == ["received 1 message"]


def test_it_ends_soon_while_messages_pour_in(alice: Node) -> None:
    process, peer = start_listening("--json")
    with process, alice:
        did, _ = parse_peer(peer)
        alice.routing.update(did, address_of(peer))
        for number in range(500):
            alice.send_nowait(did, b"%d" % number)
        process.json()
        process.json()
        began = time.monotonic()
        process.interrupt()
        assert process.wait() == 130
        assert time.monotonic() - began < 5
        assert '"event": "summary"' in process.rest("stdout")[-1]


def test_it_says_at_once_why_it_drops() -> None:
    """A v1 message to a wrong DID at the right address looks like silence otherwise."""
    process, peer = start_listening("--v1")
    config = TransportConfig(listen=None, wire="v1")
    with process, Node(Identity.generate(), config) as old_alice:
        wrong = Identity.generate().did
        old_alice.routing.update(wrong, address_of(peer))
        old_alice.send(wrong, b"to whom?")
        line = process.line("stderr")
        did, _ = parse_peer(peer)
        assert line == f"dropped: not for us (addressed to another DID; ours is {did})"
