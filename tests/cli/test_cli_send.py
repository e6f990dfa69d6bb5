"""`signedwire send` and `signedwire ping`, to peers of every manner."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clikit import LIMIT, Process, expect_one_sentence, isolate, listener, run

from signedwire import Did, Identity, Message, PayloadType, Priority, RoutingTable, payloads
from signedwire.sync import Node

sys.path.append(str(Path(__file__).parents[1] / "interop"))
from v1_peer import V1Peer, require_omnimesh

BOB = Identity.from_seed(bytes(range(32)))


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


@pytest.fixture
def bob() -> Iterator[Node]:
    with listener(BOB) as node:
        yield node


def peer(node: Node) -> str:
    return f"{node.did}@{node.address}"


def taken(node: Node) -> Message:
    message = node.receive(LIMIT)
    assert message is not None
    return message


@contextlib.contextmanager
def stranger(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something else that listens: DID@host:port of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        behave(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{BOB.did}@127.0.0.1:{server.getsockname()[1]}"
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
    thread.join(LIMIT)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


# -- one message --------------------------------------------------------------------


def test_text_is_written_and_no_more_is_claimed(bob: Node, key: Path) -> None:
    ran = run("send", peer(bob), "grüße")
    assert ran.exit_code == 0, ran
    assert ran.stdout == (
        f"written: 7 bytes to {bob.did.short} at {bob.address} (v1 peers do not confirm)\n"
    )
    message = taken(bob)
    assert message.payload == "grüße".encode()
    sender = Identity.load(key).did
    assert message.sender == sender
    assert ran.stderr == f"made a new identity, {sender}, in {key}\n"


def test_json_says_what_was_sent(bob: Node, key: Path) -> None:
    ran = run("send", peer(bob), "x", "--json", "--priority", "critical", "--payload-type", "raw")
    assert ran.objects == [
        {
            "state": "written",
            "is_confirmed": False,
            "recipient": str(bob.did),
            "address": str(bob.address),
            "sender": str(Identity.load(key).did),
            "sequence_number": 1,
            "size": 1,
        }
    ]
    assert taken(bob).priority is Priority.CRITICAL


def test_a_file_is_sent_as_it_is(bob: Node, tmp_path: Path) -> None:
    path = tmp_path / "payload"
    path.write_bytes(b"\x00\xff\n")
    ran = run("send", peer(bob), "--file", path, "--payload-type", "sensor-fusion")
    assert ran.exit_code == 0, ran
    message = taken(bob)
    assert message.payload == b"\x00\xff\n"
    assert message.payload_type is PayloadType.SENSOR_FUSION
    path.write_bytes(bytes(1025))
    expect_one_sentence(run("send", peer(bob), "--file", path), 2, "1025 bytes", "limit of 1024")


def test_the_address_comes_from_the_peers_file_or_the_fallback(
    bob: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bob.address is not None
    path = tmp_path / "peers.toml"
    RoutingTable({bob.did: bob.address}).save(path)
    assert run("send", str(bob.did), "a", "--peers", path).exit_code == 0
    monkeypatch.setenv("SIGNEDWIRE_PEERS", str(path))
    assert run("send", bob.did.hex(), "b").exit_code == 0
    other = Identity.generate().did
    expect_one_sentence(run("ping", str(other)), 2, f"no address is known for {other}", str(path))
    monkeypatch.setenv("SIGNEDWIRE_FALLBACK", str(bob.address))
    monkeypatch.delenv("SIGNEDWIRE_PEERS")
    assert run("send", str(bob.did), "c").exit_code == 0
    assert [taken(bob).payload for _ in range(3)] == [b"a", b"b", b"c"]


def test_typed_payloads(bob: Node, key: Path) -> None:
    for args in (
        ("shelf", "--agent-command", "pick", "--target", "robot-1"),
        ("--agent-command", "stop"),
        ("--motion", "1,2,3,0.5,0,-1"),
        ("--heartbeat",),
        ("why?", "--llm-query", "--system-prompt", "be short", "--model", "m"),
    ):
        assert run("send", peer(bob), *args).exit_code == 0
    command, stop, motion, heartbeat, query = (
        payloads.decode(taken(bob).payload) for _ in range(5)
    )
    assert command == payloads.AgentCommand(
        command_type="pick", target_did=b"robot-1", payload=b"shelf"
    )
    assert stop == payloads.AgentCommand(command_type="stop")
    assert motion == payloads.MotionCommand(
        linear=payloads.Vector3(x=1, y=2, z=3), angular=payloads.Vector3(x=0.5, z=-1)
    )
    assert isinstance(heartbeat, payloads.Heartbeat)
    assert heartbeat.sender_did == bytes(Identity.load(key).did)
    assert heartbeat.uptime_ms > 0
    assert query == payloads.LlmQuery(prompt="why?", system_prompt="be short", model="m")


def test_a_live_v1_peer_takes_it() -> None:
    require_omnimesh()
    with V1Peer("production") as live:
        to = f"{live.did}@{live.address}"
        assert run("send", to, "shelf", "--agent-command", "pick", "--target", "t").exit_code == 0
        received = live.receive(timeout=5)
        assert received is not None
        assert received["command_type"] == "pick"
        assert bytes(received["payload"]) == b"shelf"
        assert run("ping", to).exit_code == 0


def test_nobody_there() -> None:
    address = free_address()
    ran = run("send", f"{BOB.did}@{address}", "x", "--json")
    assert (ran.exit_code, ran.stdout) == (1, "")
    told = json.loads(ran.stderr.splitlines()[-1])
    assert told["error"] == "DeliveryFailedError"
    assert f"cannot connect to {address}: connection refused" in told["message"]
    assert "`signedwire ping`" in told["hint"]
    ran = run("send", f"{BOB.did}@{address}", "x", "--deadline", "0.05")
    expect_one_sentence(ran, 1, "expired before it could be written", "longer --deadline")


def test_an_unknown_host() -> None:
    ran = run("send", f"{BOB.did}@no-such-host.invalid:9", "x")
    ran.stderr = ran.stderr.splitlines(True)[-1]
    expect_one_sentence(ran, 1, "the host name is unknown")


def test_a_peer_that_hangs_up_has_not_taken_it() -> None:
    run("id", "new")

    def refuse(connection: socket.socket) -> None:
        connection.recv(4)  # what a peer of another protocol, or a limit, does

    with stranger(refuse) as to:
        ran = run("send", to, "x" * 500)
    expect_one_sentence(ran, 1, "was written, but then the connection to", "most likely not taken")


def test_a_peer_that_reads_it_and_then_ends_may_well_have_taken_it() -> None:
    run("id", "new")

    def read_and_leave(connection: socket.socket) -> None:
        (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
        connection.recv(length, socket.MSG_WAITALL)

    with stranger(read_and_leave) as to:
        ran = run("send", to, "x" * 500)
    assert ran.exit_code == 0, ran
    assert "written" in ran.stdout


def test_a_peer_that_speaks_first_is_no_v1_peer() -> None:
    run("id", "new")

    def greet(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-x\r\n")
        connection.recv(1000)

    with stranger(greet) as to:
        ran = run("send", to, "x")
        assert ran.exit_code == 1, ran
        assert ran.stderr.count("\n") == 1
        assert run("ping", to).stdout.endswith("but it wrote bytes, as no v1 peer does\n")


# -- lines --------------------------------------------------------------------------


def test_lines_go_out_as_they_come(bob: Node) -> None:
    with Process("send", peer(bob), "-", "--json") as process:
        for number, line in enumerate((b"one\n", b"two\r\n", b"\n", b"\xff\n"), 1):
            process.write(line)
            # It arrives while the sender still waits for more.
            assert taken(bob).payload == line.rstrip(b"\r\n")
            sent = process.json()
            assert (sent["line"], sent["sequence_number"]) == (number, number)
            assert process.is_running
        process.write(b"no end")
        process.stdin.close()
        assert taken(bob).payload == b"no end"
        assert process.wait() == 0
        assert process.json()["line"] == 5


def test_many_lines_keep_their_order_and_lose_nothing(bob: Node) -> None:
    count = 5000  # far more than the queue holds
    with Process("send", peer(bob), "-") as process:
        process.write(b"".join(b"%d\n" % number for number in range(count)))
        process.stdin.close()
        assert [int(taken(bob).payload) for _ in range(count)] == list(range(count))
        assert process.wait() == 0
        assert process.line() == (
            f"written: {count} lines to {bob.did.short} (v1 peers do not confirm)"
        )


def test_typed_payloads_line_by_line(bob: Node) -> None:
    with Process("send", peer(bob), "-", "--agent-command", "log") as process:
        process.write(b"a\nb\n")
        process.stdin.close()
        assert process.wait() == 0
    for line in (b"a", b"b"):
        expected = payloads.AgentCommand(command_type="log", payload=line)
        assert payloads.decode(taken(bob).payload) == expected


@pytest.mark.parametrize("end", [b"\nafter\n", b""], ids=["whole", "without end"])
def test_a_long_line_stops_it_and_is_named(bob: Node, end: bytes) -> None:
    with Process("send", peer(bob), "-") as process:
        process.write(b"fits\n" + b"x" * 3000 + end)
        assert process.wait() == 1  # though its input is still open
        assert taken(bob).payload == b"fits"
        assert "written: 1 line " in process.line()
        told = process.rest("stderr")[-1]
        assert told.startswith("signedwire: line 2 of standard input makes a payload of ")
        assert "over the v1 limit of 1024; the lines before it are written" in told
    assert bob.receive(0) is None


def test_a_line_that_cannot_be_delivered_is_named() -> None:
    with Process("send", f"{BOB.did}@{free_address()}", "-") as process:
        process.write(b"one\n")
        assert process.wait() == 1  # though its input is still open
        assert "written: 0 lines" in process.line()
        assert "signedwire: line 1 of standard input: message #1" in process.rest("stderr")[-1]


def test_a_prompt_in_another_encoding_is_named(bob: Node) -> None:
    with Process("send", peer(bob), "-", "--llm-query") as process:
        process.write(b"fine\n\xff\n")
        assert process.wait() == 1
        assert "line 2 of standard input: a prompt is UTF-8" in process.rest("stderr")[-1]


def test_ctrl_c_says_how_many_lines_went_out(bob: Node) -> None:
    with Process("send", peer(bob), "-") as process:
        process.write(b"one\n")
        taken(bob)
        process.interrupt()
        assert process.wait() == 130
        assert "written: 1 line " in process.line()
        assert process.rest("stderr")[-1] == "signedwire: interrupted."


def test_a_closed_standard_input(bob: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signedwire.cli.output.sys.stdin", None)
    from signedwire.cli.output import standard_input
    from signedwire.errors import ConfigError

    with pytest.raises(ConfigError, match="standard input is closed"):
        standard_input()


# -- ping ---------------------------------------------------------------------------


def test_ping_says_what_is_proven_and_what_is_not(bob: Node) -> None:
    ran = run("ping", peer(bob))
    assert ran.exit_code == 0, ran
    assert ran.stdout.startswith(f"{bob.address}: connected in ")
    assert ran.stdout.endswith(" ms, and it keeps the connection\n")
    assert f"proven: somebody listens at {bob.address}" in ran.stderr
    assert f"not proven: that it is {bob.did}" in ran.stderr


def test_ping_as_often_as_asked(bob: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("signedwire.cli.pinging.time.sleep", pauses.append)
    wrong = Identity.generate().did  # which ping cannot see
    ran = run("ping", f"{wrong}@{bob.address}", "--count", "2", "--json")
    assert ran.exit_code == 0, ran
    assert 1.0 in pauses
    for tried in ran.objects:
        assert tried.pop("connect_ms") > 0
        assert "keeps the connection" in tried.pop("detail")
        assert tried == {
            "address": str(bob.address),
            "did": str(Did.parse(str(wrong))),
            "did_is_proven": False,
            "outcome": "open",
        }


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_ping_of_no_host(host: str) -> None:
    ran = run("ping", f"{BOB.did}@{host}:9", "--json")
    assert ran.exit_code == 1
    assert ran.objects[0]["outcome"] == "failed"


def test_ping_finds_nobody_or_somebody_else() -> None:
    ran = run("ping", f"{BOB.did}@{free_address()}")
    assert ran.exit_code == 1
    assert ran.stdout.endswith(": cannot connect: connection refused\n")
    assert "signedwire: 1 of 1 attempts found no v1 peer at" in ran.stderr
    with stranger(lambda connection: None) as to:
        ran = run("ping", to, "--json")
    assert ran.exit_code == 1
    assert ran.objects[0]["outcome"] == "closed"
