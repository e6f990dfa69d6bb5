"""`signedwire bench` against a peer: real processes over loopback, and peers that are none."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest
from clikit import LIMIT, Process, expect_one_sentence, isolate, listener, run

from signedwire import Did, Identity, Node, SignedWireError, TransportConfig
from signedwire.bench import peer_bench, peer_server
from signedwire.bench.peer_bench import AT_A_TIME, NoBenchError, PeerBench, chunk_of
from signedwire.bench.peer_server import ASK, COUNT, SO_MANY, YES, BenchServer
from signedwire.types import parse_peer

QUICK = ("--seconds", "0.1", "--rounds", "1")
NONCE = b"0" * 32


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


def start_serving(*args: str) -> tuple[Process, str]:
    """A `signedwire bench --serve` that listens already, and its DID@host:port."""
    process = Process("bench", "--serve", *args)
    try:
        while True:
            words = process.line("stderr").split()
            if words[:2] == ["signedwire", "bench"]:
                return process, words[2]
    except BaseException:
        process.__exit__()
        raise


def test_one_machine_serves_and_another_measures_it(key: Path) -> None:
    process, peer = start_serving()
    with process:
        said = [process.line("stderr") for _ in range(3)]
        assert "only this machine can reach it" in said[0]
        assert said[1].startswith("anybody who has that line can send to it")
        assert said[2] == "Ctrl-C ends it"
        ran = run("bench", peer, *QUICK, "--size", "64", "--size", "1000")
        assert ran.exit_code == 0, ran
        table = ran.stdout
        assert peer in table
        assert re.search(r"64 bytes +[\d,]+ ±0% +[\d.]+ +[\d.]+", table)
        assert re.search(r"1000 bytes +[\d,]+ ±0% +[\d.]+ +[\d.]+", table)
        assert re.search(r"64 bytes +[\d,]+ µs ±0% +[\d,]+ µs ±0%", table)
        (lost,) = re.findall(r"messages lost: 0 of ([\d,]+)", table)
        process.interrupt()
        assert process.wait() == 130
        summary = process.rest("stderr")[0]
        assert re.fullmatch(rf"received {lost} messages, [\d,]+ bytes, from 1 peer; .*", summary)
        assert "no clients" not in summary
        assert "dropped" not in summary
    assert not key.exists()  # both used a key for this run


def test_both_sides_speak_json() -> None:
    process, peer = start_serving("--json")
    with process:
        did, address = parse_peer(peer)
        serving = {"event": "serving", "did": str(did), "address": str(address), "peer": peer}
        assert process.json() == serving
        ran = run("bench", peer, "--seconds", "0.1", "--rounds", "2", "--size", "100", "--json")
        assert ran.exit_code == 0, ran
        (document,) = ran.objects
        process.terminate()
        assert process.wait() == -signal.SIGTERM
        summary = process.json()
    assert document["peer"] == peer
    assert document["lost"] == 0
    (rate,) = document["rates"]
    assert (rate["size"], len(rate["rounds"])) == (100, 2)
    assert rate["in_flight"] == 4000
    assert rate["median"] > 0
    assert rate["cpu"] > 0
    assert document["sent"] > rate["sent"] > 0
    assert [trip["what"] for trip in document["round_trips"]] == ["p50", "p99"]
    assert all(trip["median"] > 0 for trip in document["round_trips"])
    assert summary["event"] == "summary"
    assert summary["messages"] == document["sent"]
    assert (summary["peer_count"], summary["unasked"], summary["unanswered"]) == (1, 0, 0)
    assert summary["echoed"] > 0
    assert summary["dropped"] == {}


def test_it_listens_where_it_is_told_and_with_our_own_key(key: Path) -> None:
    did = run("id", "new").stdout.strip()
    process, peer = start_serving("--own-identity", "--listen", "0.0.0.0:0")
    with process:
        assert parse_peer(peer)[0] == Did.parse(did)
        said = " ".join(process.line("stderr") for _ in range(2))
        assert "0.0.0.0" not in peer
        assert "anybody who has that line" in said


def test_a_peer_that_is_no_bench_server_gets_one_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_bench, "_ANSWER_TIMEOUT", 0.2)
    with listener() as peer:
        ran = run("bench", f"{peer.did}@{peer.address}", *QUICK)
        expect_one_sentence(
            ran, 1, "does not answer as `signedwire bench --serve` does", "but one question was"
        )
        message = peer.receive(LIMIT)
        assert message is not None
        assert message.payload.startswith(b"signedwire bench 1: may I measure? ")
        assert peer.receive_nowait() is None


def test_peers_that_are_not_reached() -> None:
    nobody = f"{Identity.generate().did}@127.0.0.1:9"
    expect_one_sentence(
        run("bench", nobody), 6, "was not reached at 127.0.0.1:9", "`signedwire bench --serve`"
    )
    ran = run("bench", nobody, "--json")
    assert (ran.exit_code, ran.stdout) == (6, "")
    assert json.loads(ran.stderr)["error"] == "NotDone"
    with listener() as peer:
        wrong = f"{Identity.generate().did}@{peer.address}"
        expect_one_sentence(run("bench", wrong), 6, "answered, not", "is the DID right?")
        peer.access.allow_only([])
        ran = run("bench", f"{peer.did}@{peer.address}")
        expect_one_sentence(ran, 8, "code 4 (we are denied): denied", "add --own-identity")
        assert peer.receive_nowait() is None


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["{peer}", "--serve"], ["exclude each other"]),
        (["--listen", "127.0.0.1:0"], ["--listen is where --serve listens", "Add --serve"]),
        (["{peer}", "--size", "15"], ["sizes are 16 to 1048576 bytes"]),
        (["{peer}", "--size", "2000000"], ["sizes are 16 to 1048576 bytes"]),
        (["bob@h:1"], ["'bob' is not a DID"]),
        (["--serve", "--listen", "nowhere"], ["listen='nowhere' is not allowed"]),
        (["{peer}", "--rounds", "0"], ["'0' is not a whole number from 1 on"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_bad_input(args: list[str], parts: list[str]) -> None:
    peer = f"{Identity.generate().did}@127.0.0.1:9"
    expect_one_sentence(run("bench", *(arg.format(peer=peer) for arg in args)), 2, *parts)


def test_a_configuration_of_v1_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_WIRE", "v1")
    expect_one_sentence(run("bench", "--serve"), 2, "the configuration says wire = v1")


def test_messages_that_were_lost_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def one_less(self: PeerBench) -> int:
        return self._sent - 1

    monkeypatch.setattr(PeerBench, "_counted", one_less)
    process, peer = start_serving()
    with process:
        ran = run("bench", peer, *QUICK, "--size", "64")
        assert ran.exit_code == 1, ran
        assert "messages lost: 1 of " in ran.stdout


# -- the server, without a command line ---------------------------------------------------


class Guest:
    """A node beside a bench server, which says what it likes."""

    def __init__(self, node: Node, server: Node) -> None:
        self.node = node
        self._server = server.did
        node.routing.update(server.did, server.address)

    async def say(self, payload: bytes) -> None:
        await self.node.send(self._server, payload)

    async def ask(self, payload: bytes) -> bytes | None:
        await self.say(payload)
        message = await self.node.receive(LIMIT)
        return None if message is None else message.payload


@pytest.fixture
def node() -> Node:
    return Node(Identity.generate(), TransportConfig(listen=None))


async def test_a_server_counts_and_echoes_for_those_who_asked(node: Node) -> None:
    async with Node(Identity.generate()) as serving, node:
        server, guest = BenchServer(serving), Guest(node, serving)
        running = asyncio.create_task(server.run())
        strange = (b"\1 echo this", b"\0", b"", b"hello", COUNT + NONCE, ASK + b"short")
        for payload in strange:
            await guest.say(payload)
        # The next one to be answered is this.
        assert await guest.ask(ASK + NONCE) == YES + NONCE
        await guest.say(bytes(100))
        assert await guest.ask(b"\1 echo this") == b"\1 echo this"
        assert await guest.ask(COUNT + NONCE) == SO_MANY + NONCE + b" 2"
        await guest.say(b"what is this?")
        assert await guest.ask(ASK + NONCE) == YES + NONCE
        assert await guest.ask(COUNT + NONCE) == SO_MANY + NONCE + b" 0"
        running.cancel()
    assert (server.messages, server.bytes, server.echoed) == (2, 111, 1)
    assert (server.clients, server.unasked, server.unanswered) == (1, len(strange) + 1, 0)


async def test_a_server_forgets_who_asked_longest_ago(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_server, "_MAX_CLIENTS", 1)
    monkeypatch.setattr(peer_bench, "_ANSWER_TIMEOUT", 0.2)
    other = Node(Identity.generate(), TransportConfig(listen=None))
    async with Node(Identity.generate()) as serving, node, other:
        running = asyncio.create_task(BenchServer(serving).run())
        Guest(node, serving)
        measuring = PeerBench(node, serving.did)
        await measuring.agree()
        assert await Guest(other, serving).ask(ASK + NONCE) == YES + NONCE
        with pytest.raises(NoBenchError, match="answer how many messages came"):
            await measuring.measure("it", [64], 0.05, 1, lambda text: None)
        running.cancel()


async def test_a_server_that_ends_meanwhile_is_an_error(node: Node) -> None:
    async with node:
        serving = Node(Identity.generate())
        async with serving:
            running = asyncio.create_task(BenchServer(serving).run())
            Guest(node, serving)
            measuring = PeerBench(node, serving.did)
            await measuring.agree()
            task = asyncio.create_task(measuring.measure("it", [64], LIMIT, 1, lambda text: None))
            while serving.stats().messages_received < 100:
                await asyncio.sleep(0.01)
            running.cancel()
        with pytest.raises(SignedWireError, match="attempts exhausted"):
            await task


async def test_a_server_that_takes_nothing_any_more_is_an_error(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_bench, "_STALL_TIMEOUT", 0.3)
    monkeypatch.setattr(peer_bench, "_ANSWER_TIMEOUT", 0.3)
    async with Node(Identity.generate()) as serving, node:
        running = asyncio.create_task(BenchServer(serving).run())
        Guest(node, serving)
        measuring = PeerBench(node, serving.did)
        await measuring.agree()
        running.cancel()
        # What was in flight may have been accepted all the same, and is not counted then.
        said = r"did not (accept what was sent within 0\.35 s|answer how many messages came)"
        with pytest.raises(NoBenchError, match=said):
            await measuring.measure("it", [64], 0.05, 1, lambda text: None)


@pytest.mark.parametrize(
    ("size", "count"), [(16, 1000), (1048, 1000), (2**19, 2), (2**20, 1), (2**24, 1)]
)
def test_large_messages_come_in_small_chunks(size: int, count: int) -> None:
    assert chunk_of(size) == count
    assert AT_A_TIME * count * size <= max(4 * 2**20, AT_A_TIME * size)
