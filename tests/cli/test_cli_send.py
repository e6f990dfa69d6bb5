"""`signedwire send` and `signedwire ping`, to peers of every manner."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from clikit import LIMIT, Process, expect_one_sentence, isolate, listener, run

from signedwire import (
    DeliveryState,
    Identity,
    Message,
    PayloadType,
    Priority,
    Reason,
    RoutingTable,
    payloads,
    verify_receipt,
)
from signedwire.cli import main
from signedwire.sync import Node

sys.path.append(str(Path(__file__).parents[1] / "interop"))
from v1_peer import V1Peer, require_omnimesh

BOB = Identity.from_seed(bytes(range(32)))


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = isolate(tmp_path, monkeypatch)
    monkeypatch.setenv("SIGNEDWIRE_RETRY_BASE_DELAY", "0.02")
    monkeypatch.setenv("SIGNEDWIRE_STORE", "none")  # with one: test_cli_outbox.py
    return path


@pytest.fixture
def bob() -> Iterator[Node]:
    with listener(BOB) as node:
        yield node


@pytest.fixture
def old_bob() -> Iterator[Node]:
    """He speaks nothing but v1."""
    with listener(BOB, wire="v1") as node:
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


def as_v1(behave: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    """Hang up on TLS first."""

    def look_first(connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) == b"\0":
            behave(connection)

    return look_first


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


# -- one message --------------------------------------------------------------------


def test_it_returns_when_the_peer_has_accepted(bob: Node, key: Path) -> None:
    ran = run("send", peer(bob), "grüße")
    assert ran.exit_code == 0, ran
    assert re.fullmatch(
        rf"accepted: 7 bytes by {bob.did.short} at {bob.address}, \d+\.\d ms \(signed receipt\)\n",
        ran.stdout,
    )
    message = taken(bob)
    assert message.payload == "grüße".encode()
    sender = Identity.load(key).did
    assert message.sender == sender
    assert ran.stderr == f"made a new identity, {sender}, in {key}\n"


def test_to_v1_peers_it_is_written_and_no_more_is_claimed(old_bob: Node) -> None:
    ran = run("send", peer(old_bob), "grüße", "--v1")
    assert ran.exit_code == 0, ran
    assert ran.stdout == (
        f"written: 7 bytes to {BOB.did.short} at {old_bob.address} (v1 peers do not confirm)\n"
    )
    assert taken(old_bob).payload == "grüße".encode()
    (sent,) = run("send", peer(old_bob), "x", "--v1", "--json", "--until", "handled").objects
    assert (sent["state"], sent["is_confirmed"], sent["wire"]) == ("written", False, "v1")
    assert sent["took_ms"] is None


def test_v1_only_where_it_is_allowed(old_bob: Node, tmp_path: Path) -> None:
    run("id", "new")
    ran = run("send", peer(old_bob), "x")
    expect_one_sentence(
        ran,
        6,
        f"{old_bob.address}: the peer hung up on TLS without an alert, as v1 peers do, "
        "and v2 peers that are full)",
        "a v1 peer, add --v1.\n",
    )
    with Process("send", peer(old_bob), "-") as process:
        process.write(b"one\n")
        assert process.wait() == 6
        assert "line 1 of standard input: message " in process.rest("stderr")[-1]
    # Too long for v1: over v2 or not at all, and v1 peers drop such a thing without a word.
    ran = run("send", peer(old_bob), "x" * 1025, "--v1")
    expect_one_sentence(ran, 2, "1025 bytes is over the v1 limit of 1024", "hung up on TLS")
    ran = run("send", peer(old_bob), "x", "--v1", "--proof", tmp_path / "proof")
    expect_one_sentence(ran, 1, "v1 peers sign no receipts", "Leave --proof away")
    assert not (tmp_path / "proof").exists()
    assert taken(old_bob).payload == b"x"
    assert old_bob.receive_nowait() is None


def test_allowing_v1_takes_nothing_from_a_v2_peer(bob: Node) -> None:
    ran = run("send", peer(bob), "x" * 5000, "--v1")
    assert ran.stdout.startswith("accepted: 5000 bytes")
    assert len(taken(bob).payload) == 5000
    with Process("send", peer(bob), "-", "--v1") as process:
        process.write(b"short\n" + b"x" * 5000)
        process.stdin.close()
        assert process.wait() == 0
    assert [len(taken(bob).payload) for _ in range(2)] == [5, 5000]


def test_json_says_what_was_sent(bob: Node, key: Path) -> None:
    ran = run("send", peer(bob), "x", "--json", "--priority", "critical", "--payload-type", "raw")
    (sent,) = ran.objects
    assert 0 <= sent.pop("took_ms") < LIMIT * 1000
    message_id = sent.pop("message_id")
    assert sent == {
        "state": "accepted",
        "store": None,
        "is_confirmed": True,
        "wire": "v2",
        "recipient": str(bob.did),
        "address": str(bob.address),
        "sender": str(Identity.load(key).did),
        "size": 1,
    }
    message = taken(bob)
    assert (message.priority, message.message_id) == (Priority.CRITICAL, message_id)


@pytest.mark.parametrize("until", ["queued", "written"])
def test_waiting_for_less_still_says_how_far_it_came(bob: Node, until: str) -> None:
    assert run("send", peer(bob), "x", "--until", until).stdout.startswith("accepted: 1 byte ")
    assert taken(bob).payload == b"x"
    ran = run("send", f"{BOB.did}@{free_address()}", "x", "--until", until)
    expect_one_sentence(ran, 6, "was not delivered")


def test_until_it_is_handled(bob: Node) -> None:
    with Process("send", peer(bob), "x", "--until", "handled") as process:
        message = taken(bob)
        assert process.is_running
        message.ack()
        assert process.line().startswith("handled: 1 byte by ")
        assert process.wait() == 0
    with Process("send", peer(bob), "x", "--until", "handled", "--json") as process:
        taken(bob).nack()
        assert process.wait() == 7
        told = json.loads(process.rest("stderr")[-1])
        assert told["error"] == "MessageRefusedError"


def test_waiting_has_an_end(bob: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    run("id", "new")
    ran = run("send", peer(bob), "x", "--until", "handled", "--timeout", "0.2")
    expect_one_sentence(ran, 5, "is accepted after 0.2 s, and not yet handled", "--timeout")
    with listener() as carol:
        # Who has accepted it and goes will not tell any more.
        monkeypatch.setattr("signedwire.cli.receipt_waits._GRACE", 0.0)

        def take_and_go() -> None:
            taken(carol)
            carol.close()

        killer = threading.Thread(target=take_and_go)
        killer.start()
        ran = run("send", peer(carol), "x", "--until", "handled")
        killer.join(LIMIT)
    expect_one_sentence(ran, 5, "then its link ended", "not known whether it was handled")


@pytest.mark.parametrize("own", [False, True], ids=["a peer", "its own DID"])
def test_without_a_store_it_takes_no_messages(key: Path, own: bool) -> None:
    """Nobody would read them: they wait for a node that does."""
    sender = BOB if own else Identity.generate()
    key.parent.mkdir(parents=True)
    sender.save(key)
    with listener(BOB, max_attempts=1000) as bob:
        bob.routing.update(sender.did, free_address())
        normal = bob.send_nowait(sender.did, b"for a node that reads")
        critical = bob.send_nowait(sender.did, b"stop", priority=Priority.CRITICAL)
        with Process("send", peer(bob), "x", "--until", "handled") as process:
            taken(bob).ack()
            assert process.wait() == 0
        assert {normal.state, critical.state} == {DeliveryState.QUEUED}
        assert bob.stats().messages_sent == 0


def test_a_proof_of_delivery_is_saved_and_checked(bob: Node, tmp_path: Path) -> None:
    path = tmp_path / "proof"
    (sent,) = run("send", peer(bob), "hello", "--proof", path, "--json").objects
    assert sent["proof"] == str(path)
    proven = verify_receipt(path.read_bytes())
    assert (str(proven.envelope.sender), proven.envelope.payload) == (sent["sender"], b"hello")
    ran = run("verify", path)
    assert f"accepted by {bob.did} at 2" in ran.stdout
    before = path.read_bytes()
    expect_one_sentence(run("send", peer(bob), "x", "--proof", path), 3, "never overwritten")
    assert path.read_bytes() == before
    gone = tmp_path / "gone"
    assert run("send", f"{BOB.did}@{free_address()}", "x", "--proof", gone).exit_code == 6
    assert not gone.exists()


def test_a_proof_of_refusal_is_saved_and_checked(bob: Node, tmp_path: Path) -> None:
    path = tmp_path / "proof"
    args = ("send", peer(bob), "x", "--until", "handled", "--proof", str(path), "--json")
    with Process(*args) as process:
        taken(bob).nack("not allowed", "the arm is in use")
        assert process.wait() == 7
        told = json.loads(process.rest("stderr")[-1])
    assert (told["error"], told["state"]) == ("MessageRefusedError", "refused")
    assert told["message"].endswith(f"; its proof is in {path}")
    proven = verify_receipt(path.read_bytes())
    assert (proven.reason, proven.detail) == (Reason.NOT_ALLOWED, "the arm is in use")
    assert f"refused by {bob.did}" in run("verify", path).stdout


class _Broken(io.StringIO):
    """A standard output that fails as a full disk, a closed pipe or Ctrl-C does."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str, /) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "no space left on device"), 10),
        (BrokenPipeError(errno.EPIPE, "broken pipe"), 141),
        (KeyboardInterrupt(), 130),
    ],
    ids=["full", "pipe", "Ctrl-C"],
)
@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "json"])
def test_a_proof_that_is_saved_stays_whatever_comes_after(
    error: BaseException,
    code: int,
    json: list[str],
    bob: Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("id", "new")
    path = tmp_path / "proof"
    to = peer(bob)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["signedwire", "send", to, "hello", "--proof", str(path), *json])
        patch.setattr(sys, "stdout", _Broken(error))
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == code
    assert verify_receipt(path.read_bytes()).envelope.payload == b"hello"
    if code == 10:
        assert f"its proof is in {path}" in capsys.readouterr().err


def test_a_proof_that_cannot_be_written_is_told_with_what_became_of_the_message(
    bob: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "proof"
    monkeypatch.setattr("os.fsync", Mock(side_effect=OSError(errno.EIO, "input/output error")))
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", f"ed25519-seed:{'07' * 32}")
    ran = run("send", peer(bob), "hello", "--proof", path)
    expect_one_sentence(ran, 10, "is accepted, but its proof cannot be written", "Do not send it")
    assert not path.exists()


def test_another_key_answers(bob: Node) -> None:
    run("id", "new")
    other = Identity.generate().did
    ran = run("send", f"{other}@{bob.address}", "x")
    expect_one_sentence(ran, 6, f"{bob.did} answered, not {other}", "is the DID right?")
    assert bob.receive_nowait() is None


def test_a_file_is_sent_as_it_is(bob: Node, tmp_path: Path) -> None:
    path = tmp_path / "payload"
    path.write_bytes(b"\x00\xff\n")
    ran = run("send", peer(bob), "--file", path, "--payload-type", "sensor-fusion")
    assert ran.exit_code == 0, ran
    message = taken(bob)
    assert message.payload == b"\x00\xff\n"
    assert message.payload_type is PayloadType.SENSOR_FUSION
    path.write_bytes(bytes(2**20 + 1))
    ran = run("send", peer(bob), "--file", path)
    expect_one_sentence(ran, 2, "1048577 bytes", "limit of 1048576")


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


def test_the_cap_of_the_peers_file_holds(bob: Node, tmp_path: Path) -> None:
    assert bob.address is not None
    routes, path, file = RoutingTable(), tmp_path / "peers.toml", tmp_path / "payload"
    routes.update(bob.did, bob.address, max_rate="50kB/s")
    routes.save(path)
    file.write_bytes(bytes(40_000))
    begin = time.monotonic()
    assert run("send", str(bob.did), "--file", file, "--peers", path).exit_code == 0
    assert time.monotonic() - begin >= 0.6  # the first bytes do not wait
    assert len(taken(bob).payload) == 40_000


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
        assert run("ping", to, "--v1").exit_code == 0
        expect_one_sentence(run("send", to, "x"), 6, "the peer hung up on TLS", "add --v1")


def test_nobody_there() -> None:
    address = free_address()
    ran = run("send", f"{BOB.did}@{address}", "x", "--json")
    assert (ran.exit_code, ran.stdout) == (6, "")
    told = json.loads(ran.stderr.splitlines()[-1])
    assert told["error"] == "DeliveryFailedError"
    assert f"cannot connect to {address}: connection refused" in told["message"]
    assert "`signedwire ping`" in told["hint"]
    ran = run("send", f"{BOB.did}@{address}", "x", "--deadline", "0.05")
    expect_one_sentence(ran, 5, "expired before it could be written", "longer --deadline")


def test_an_unknown_host() -> None:
    ran = run("send", f"{BOB.did}@no-such-host.invalid:9", "x")
    ran.stderr = ran.stderr.splitlines(True)[-1]
    expect_one_sentence(ran, 6, "the host name is unknown")


def test_a_peer_that_hangs_up_has_not_taken_it() -> None:
    run("id", "new")

    def refuse(connection: socket.socket) -> None:
        connection.recv(4)  # what a peer of another protocol, or a limit, does

    with stranger(as_v1(refuse)) as to:
        ran = run("send", to, "x" * 500, "--v1")
    expect_one_sentence(ran, 1, "was written, but then the connection to", "most likely not taken")


def test_a_peer_that_reads_it_and_then_ends_may_well_have_taken_it() -> None:
    run("id", "new")

    def read_and_leave(connection: socket.socket) -> None:
        (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
        connection.recv(length, socket.MSG_WAITALL)

    with stranger(as_v1(read_and_leave)) as to:
        ran = run("send", to, "x" * 500, "--v1")
    assert ran.exit_code == 0, ran
    assert "written" in ran.stdout


def test_a_peer_that_speaks_first_is_no_peer() -> None:
    run("id", "new")

    def greet(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-x\r\n")
        connection.recv(1000)

    with stranger(greet) as to:
        expect_one_sentence(run("send", to, "x", "--v1"), 6, "TLS failed: wrong version number")
        ran = run("ping", to, "--v1")
        assert (
            "but the peer does not speak TLS as v2 peers do: wrong version number\n" in ran.stdout
        )


# -- lines --------------------------------------------------------------------------


def test_lines_go_out_as_they_come(bob: Node) -> None:
    with Process("send", peer(bob), "-", "--json") as process:
        for number, line in enumerate((b"one\n", b"two\r\n", b"\n", b"\xff\n"), 1):
            process.write(line)
            # It arrives while the sender still waits for more.
            message = taken(bob)
            assert message.payload == line.rstrip(b"\r\n")
            sent = process.json()
            assert (sent["line"], sent["message_id"]) == (number, message.message_id)
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
        assert process.line() == f"accepted: {count} lines by {bob.did.short} (signed receipts)"


def test_lines_to_a_v1_peer(old_bob: Node) -> None:
    count = 3000
    with Process("send", peer(old_bob), "-", "--v1") as process:
        process.write(b"".join(b"%d\n" % number for number in range(count)))
        process.stdin.close()
        assert [int(taken(old_bob).payload) for _ in range(count)] == list(range(count))
        assert process.wait() == 0
        assert process.line() == (
            f"written: {count} lines to {BOB.did.short} (v1 peers do not confirm)"
        )


def test_it_reads_on_while_answers_are_awaited(bob: Node) -> None:
    with Process("send", peer(bob), "-", "--until", "handled", "--json") as process:
        messages = []
        for line in (b"one", b"two", b"three"):
            process.write(line + b"\n")
            messages.append(taken(bob))
            assert messages[-1].payload == line
        for message in messages:
            message.ack()
        process.stdin.close()
        assert [process.json()["state"] for _ in messages] == ["handled"] * 3
        assert process.wait() == 0


def test_the_first_line_that_is_refused_is_named(bob: Node) -> None:
    with Process("send", peer(bob), "-", "--until", "handled") as process:
        process.write(b"one\ntwo\nthree\n")
        one, two, three = (taken(bob) for _ in range(3))
        three.ack()
        two.nack()
        one.ack()
        assert process.wait() == 7  # though its input is still open
        assert process.line().startswith("handled: 2 lines by ")
        assert "line 2 of standard input: " in process.rest("stderr")[-1]


def test_typed_payloads_line_by_line(bob: Node) -> None:
    with Process("send", peer(bob), "-", "--agent-command", "log") as process:
        process.write(b"a\nb\n")
        process.stdin.close()
        assert process.wait() == 0
    for line in (b"a", b"b"):
        expected = payloads.AgentCommand(command_type="log", payload=line)
        assert payloads.decode(taken(bob).payload) == expected


@pytest.mark.parametrize("end", [b"\nafter\n", b""], ids=["whole", "without end"])
@pytest.mark.parametrize("wire", ["v1", "v2"])
def test_a_long_line_stops_it_and_is_named(wire: str, end: bytes) -> None:
    options = {"wire": "v1"} if wire == "v1" else {}
    args = ["--v1"] if wire == "v1" else []
    with listener(BOB, **options) as node, Process("send", peer(node), "-", *args) as process:
        process.write(b"fits\n" + b"x" * (3000 if wire == "v1" else 2**20 + 2) + end)
        assert process.wait() == 2  # though its input is still open
        assert taken(node).payload == b"fits"
        assert f"{'written' if wire == 'v1' else 'accepted'}: 1 line " in process.line()
        told = process.rest("stderr")[-1]
        assert told.startswith("signedwire: line 2 of standard input makes a payload of ")
        limit = "v1 limit of 1024" if wire == "v1" else "limit of 1048576"
        assert f"over the {limit}; the lines before it are sent" in told
        assert node.receive_nowait() is None


def test_a_line_that_cannot_be_delivered_is_named() -> None:
    with Process("send", f"{BOB.did}@{free_address()}", "-") as process:
        process.write(b"one\n")
        assert process.wait() == 6  # though its input is still open
        assert process.rest("stdout") == []
        assert "signedwire: line 1 of standard input: message " in process.rest("stderr")[-1]


def test_a_prompt_in_another_encoding_is_named(bob: Node) -> None:
    with Process("send", peer(bob), "-", "--llm-query") as process:
        process.write(b"fine\n\xff\n")
        assert process.wait() == 2
        assert "line 2 of standard input: a prompt is UTF-8" in process.rest("stderr")[-1]


def test_ctrl_c_says_how_many_lines_went_out(bob: Node) -> None:
    with Process("send", peer(bob), "-") as process:
        process.write(b"one\n")
        taken(bob)
        process.interrupt()
        assert process.wait() == 130
        assert "accepted: 1 line " in process.line()
        assert process.rest("stderr")[-1] == "signedwire: interrupted."


def test_a_closed_standard_input(bob: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signedwire.cli.output.sys.stdin", None)
    from signedwire.cli.output import standard_input
    from signedwire.errors import ConfigError

    with pytest.raises(ConfigError, match="standard input is closed"):
        standard_input()


# -- ping and peers -----------------------------------------------------------------


def test_ping_proves_who_is_there(bob: Node, key: Path) -> None:
    ran = run("ping", peer(bob))
    assert ran.exit_code == 0, ran
    assert re.fullmatch(
        rf"{bob.address}: {bob.did}, proven; connected in \S+ ms, handshake \S+ ms\n"
        rf"{bob.address}: round trip \S+ ms\n",
        ran.stdout,
    )
    assert ran.stderr == ""
    assert not key.exists()  # it links with a key for this run
    assert bob.receive_nowait() is None


def test_ping_as_often_as_asked(bob: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signedwire.cli.ping_commands._INTERVAL", 0.05)
    ran = run("ping", peer(bob), "--count", "3", "--json")
    assert ran.exit_code == 0, ran
    assert len(ran.objects) == 3
    for tried in ran.objects:
        for name in ("connect_ms", "handshake_ms", "round_trip_ms"):
            assert 0 < tried.pop(name) < LIMIT * 1000
        bound = tried.pop("clock_offset_bound_ms")
        assert abs(tried.pop("clock_offset_ms")) <= bound < LIMIT * 1000
        assert tried == {
            "did": str(bob.did),
            "address": str(bob.address),
            "state": "connected",
            "wire": "v2",
            "is_proven": True,
            "answered_by": str(bob.did),
            "problem": None,
        }
    assert run("ping", peer(bob), "--count", "2").stdout.count("round trip") == 2


def test_ping_says_who_else_answered(bob: Node) -> None:
    wrong = Identity.generate().did
    ran = run("ping", f"{wrong}@{bob.address}")
    assert ran.exit_code == 6
    assert f"but {bob.did} answered, not {wrong}" in ran.stdout
    assert f"{wrong} was not reached at {bob.address}. Another key answers" in ran.stderr
    (tried,) = run("ping", f"{wrong}@{bob.address}", "--json").objects
    assert (tried["is_proven"], tried["answered_by"]) == (False, str(bob.did))


def test_ping_of_one_who_lets_in_only_whom_he_knows(bob: Node, key: Path) -> None:
    run("id", "new")
    bob.access.allow_only([Identity.load(key).did])
    ran = run("ping", peer(bob))
    assert ran.exit_code == 8
    assert " ms, but the peer closed the link with code 4 (we are denied): denied" in ran.stdout
    assert f"{bob.did} did not let us in at {bob.address}" in ran.stderr
    assert "add --own-identity" in ran.stderr
    assert run("ping", peer(bob), "--own-identity").exit_code == 0


def test_ping_sees_a_link_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    node = listener(BOB)
    with node, Process("ping", peer(node), "--count", "9") as process:
        assert "proven" in process.line()
        assert "round trip" in process.line()
        node.close()
        assert process.wait() == 6
        assert (
            "but the peer closed the link with code 0 (it is closing)" in process.rest("stdout")[-1]
        )
        assert "was not reached at" in process.line("stderr")


def test_ping_of_a_v1_peer_says_what_is_not_proven(old_bob: Node) -> None:
    ran = run("ping", peer(old_bob))
    assert ran.exit_code == 6
    assert ran.stdout.endswith("but the peer hung up on TLS, as v1 peers do\n")
    assert "If it is a v1 peer, add --v1." in ran.stderr
    ran = run("ping", peer(old_bob), "--v1")
    assert ran.exit_code == 0, ran
    assert ran.stdout.startswith(f"{old_bob.address}: connected in ")
    assert ran.stdout.endswith(" ms, and it keeps the connection\n")
    assert f"proven: somebody listens at {old_bob.address}" in ran.stderr
    assert f"not proven: that it is {BOB.did}" in ran.stderr


def test_ping_where_v1_is_the_only_wire(old_bob: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_WIRE", "v1")
    monkeypatch.setattr("signedwire.cli.ping_commands._INTERVAL", 0.05)
    ran = run("ping", peer(old_bob), "--count", "2", "--json")
    assert ran.exit_code == 0, ran
    assert [(o["state"], o["wire"], o["is_proven"]) for o in ran.objects] == [
        ("open", "v1", False)
    ] * 2


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_ping_of_no_host(host: str) -> None:
    ran = run("ping", f"{BOB.did}@{host}:9", "--json")
    assert ran.exit_code == 6
    assert ran.objects[0]["state"] in ("name unknown", "name server silent")


def test_ping_finds_nobody_or_somebody_else() -> None:
    ran = run("ping", f"{BOB.did}@{free_address()}")
    assert ran.exit_code == 6
    assert ran.stdout.endswith(": cannot connect: connection refused\n")
    assert f"signedwire: {BOB.did} was not reached at" in ran.stderr
    with stranger(lambda connection: None) as to:
        (tried,) = run("ping", to, "--json", "--v1").objects
    assert (tried["state"], tried["wire"]) == ("closed", None)


def test_ping_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_HANDSHAKE_TIMEOUT", "0.1")

    def read_on(connection: socket.socket) -> None:
        while connection.recv(4000):
            pass

    with stranger(read_on) as to:
        ran = run("ping", to)
    assert ran.exit_code == 6
    assert ran.stdout.endswith("but no handshake within 0.1 s\n")


def test_peers_tries_all_of_them(bob: Node, tmp_path: Path) -> None:
    path = tmp_path / "peers.toml"
    nobody, wrong, old = (Identity.generate().did for _ in range(3))
    assert bob.address is not None
    with listener(wire="v1") as v1:
        assert v1.address is not None
        routes = RoutingTable({bob.did: bob.address, old: v1.address})
        routes.update(nobody, free_address())
        routes.save(path)
        order = [did for did, _ in RoutingTable.load(path)]
        ran = run("peers", "--peers", path)
        assert ran.exit_code == 6
        lines = ran.stdout.splitlines()
        assert [line.split()[1] for line in lines] == list(map(str, order))
        assert lines[order.index(bob.did)].startswith(f"ok      {bob.did}  {bob.address}  v2  conn")
        assert lines[order.index(nobody)].endswith("refused  cannot connect: connection refused")
        assert lines[order.index(old)].endswith("the peer hung up on TLS, as v1 peers do")
        assert ran.stderr == f"reached 1 of 3 peers in {path}\n"
        routes.remove(nobody)
        routes.save(path)
        ran = run("peers", "--peers", path, "--v1", "--json")
        assert ran.exit_code == 0, ran
        assert {o["did"]: (o["wire"], o["is_proven"]) for o in ran.objects} == {
            str(bob.did): ("v2", True),
            str(old): ("v1", False),
        }
    routes.update(wrong, bob.address)
    routes.remove(old)
    routes.save(path)
    assert "  another peer  " in run("peers", "--peers", path).stdout


def test_peers_of_an_empty_file_and_of_many(bob: Node, tmp_path: Path) -> None:
    path = tmp_path / "peers.toml"
    assert bob.address is not None
    RoutingTable().save(path)
    ran = run("peers", "--peers", path)
    assert (ran.exit_code, ran.stdout) == (0, "")
    dids = [Identity.generate().did for _ in range(40)]
    RoutingTable(dict.fromkeys(dids, bob.address)).save(path)
    ran = run("peers", "--peers", path, "--json")
    assert ran.exit_code == 6
    assert [o["did"] for o in ran.objects] == [str(did) for did in sorted(dids)]
    assert {o["answered_by"] for o in ran.objects} == {str(bob.did)}
