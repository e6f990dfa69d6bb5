"""The store of the command line: `send` and `listen` use it, `outbox` and `dead` change it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clikit import LIMIT, Process, expect_one_sentence, isolate, listener, run, start_listening

from signedwire import Identity, Reason, SignedEnvelope
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.receipt_waits import ReceiptWaits
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import advance_all
from signedwire.delivery.store import SqliteStore
from signedwire.environment import state_folder
from signedwire.sync import Node
from signedwire.types import DeliveryState

BOB = Identity.from_seed(bytes(range(32)))
AWAY = f"{BOB.did}@127.0.0.1:1"


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = isolate(tmp_path, monkeypatch)
    # After one refused connection, the peer counts as not reachable.
    monkeypatch.setenv("SIGNEDWIRE_MAX_ATTEMPTS", "1")
    return path


@pytest.fixture
def alice(key: Path) -> Identity:
    """Make the identity of this user; `id new` prints it."""
    run("id", "new")
    return Identity.load(key)


@pytest.fixture
def bob() -> Iterator[Node]:
    with listener(BOB) as node:
        yield node


def default_store(tmp_path: Path, identity: Identity) -> Path:
    name = str(identity.did).removeprefix("did:key:")
    return tmp_path / "state" / "signedwire" / f"{name}.db"


def make_dead(path: Path, identity: Identity) -> None:
    """Make dead letters of all outgoing messages."""
    store = SqliteStore(path, identity.did, is_threaded=False)
    for row in store.outbox().result():
        store.dead_letter(
            row.recipient, [(row.lane, row.row)], Reason.REFUSED, "it \x1b[31mwill not"
        )
    store.close()


# -- send -----------------------------------------------------------------------------


def test_a_message_to_a_peer_that_is_away_is_kept_and_goes_out_with_the_next(
    tmp_path: Path, key: Path
) -> None:
    ran = run("send", AWAY, "first")
    assert ran.exit_code == 4, ran
    alice = Identity.load(key)
    path = default_store(tmp_path, alice)
    short = BOB.did.short
    assert ran.stdout == f"persisted: 5 bytes for {short} at 127.0.0.1:1 (in {path})\n"
    told = ran.stderr.splitlines()
    assert told[0] == f"made a new identity, {alice.did}, in {key}"
    assert told[1] == f"made a new store in {path}"
    assert told[2].startswith("the peer was not reached (cannot connect to 127.0.0.1:1: ")
    assert "`signedwire outbox list` shows what waits" in told[2]
    assert len(told) == 3
    assert os.name != "posix" or path.stat().st_mode & 0o777 == 0o600

    (sent,) = run("send", AWAY, "second", "--json").objects
    assert (sent["state"], sent["is_confirmed"]) == ("persisted", False)
    assert (sent["wire"], sent["took_ms"], sent["store"]) == (None, None, str(path))

    waiting = run("outbox", "list", "--json").objects
    assert [row["size"] for row in waiting] == [5, 6]
    with listener(BOB) as bob:
        ran = run("send", f"{BOB.did}@{bob.address}", "third")
        assert ran.stdout.startswith("accepted: 5 bytes by ")
        assert ran.stderr == ""
        payloads = []
        for _ in range(3):
            message = bob.receive(LIMIT)
            assert message is not None
            payloads.append(message.payload)
    assert payloads == [b"first", b"second", b"third"]
    assert run("outbox", "list").stderr == "0 messages waiting, 0 bytes\n"


@pytest.mark.parametrize("until", ["queued", "persisted"])
def test_until_it_is_in_the_store(until: str, alice: Identity) -> None:
    ran = run("send", AWAY, "x", "--until", until, "--json")
    assert ran.exit_code == 0, ran
    assert ran.objects[0]["state"] == "persisted"
    assert len(run("outbox", "list", "--json").objects) == 1


@pytest.mark.parametrize("options", [["--until", "accepted"], ["--proof", "p"]], ids=" ".join)
def test_whoever_asks_for_more_is_told_that_it_is_not_so(
    options: list[str], alice: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("outbox", "list")
    ran = run("send", AWAY, "x", "--store", "s.db", *options)
    assert ran.exit_code == ExitCode.STORED
    assert ran.stdout == ""
    assert "is persisted, and not yet accepted: the peer was not reached (cannot con" in ran.stderr
    assert "`signedwire outbox list --store s.db` shows what waits" in ran.stderr
    assert not (tmp_path / "p").exists()
    assert len(run("outbox", "list", "--store", "s.db", "--json").objects) == 1


@pytest.mark.parametrize("until", [[], ["--until", "accepted"], ["--until", "written"]], ids=str)
@pytest.mark.parametrize("text", ["x", "-"], ids=["one", "lines"])
def test_what_was_written_and_is_back_in_the_store_is_no_success(
    text: str,
    until: list[str],
    alice: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection to a v1 peer ended before the peer had the last message."""
    monkeypatch.setenv("SIGNEDWIRE_WIRE", "v1")

    def take_back(_: object, last: OutgoingMessage) -> None:
        assert last.state is DeliveryState.WRITTEN
        advance_all([last], DeliveryState.PERSISTED)
        last.detach()  # as `close()` does

    monkeypatch.setattr(ReceiptWaits, "check_hung_up", take_back)
    lines = tmp_path / "lines"
    lines.write_text("x\ny\n")
    with listener(BOB, wire="v1") as bob, lines.open() as given:
        monkeypatch.setattr("signedwire.cli.line_sender.standard_input", lambda: given)
        ran = run("send", f"{BOB.did}@{bob.address}", text, *until)
    assert ran.exit_code == ExitCode.STORED, ran
    assert "persisted: 1 " in ran.stdout
    assert ("written: 1 line " in ran.stdout) is (text == "-")


def test_without_a_store(alice: Identity, tmp_path: Path) -> None:
    ran = run("send", AWAY, "x", "--no-store")
    expect_one_sentence(ran, 6, "attempts exhausted")
    assert not (tmp_path / "state").exists()
    expect_one_sentence(
        run("send", AWAY, "x", "--no-store", "--store", "f"), 2, "exclude each other"
    )
    expect_one_sentence(
        run("send", AWAY, "x", "--no-store", "--until", "persisted"), 2, "needs a store"
    )


def test_another_key_that_answers_is_not_away(alice: Identity, bob: Node) -> None:
    wrong = Identity.generate().did
    ran = run("send", f"{wrong}@{bob.address}", "x")
    assert ran.exit_code == 4
    assert "Another key answers there: is the DID right?" in ran.stderr


def test_a_time_limit_says_that_it_stays(alice: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_MAX_ATTEMPTS", "1000")
    ran = run("send", AWAY, "x", "--timeout", "0.2")
    assert ran.exit_code == 4
    assert "is persisted after 0.2 s, and not yet accepted" in ran.stderr
    assert "It stays in the store and is sent later. `signedwire outbox list`" in ran.stderr


def test_lines_to_a_peer_that_is_away(alice: Identity) -> None:
    with Process("send", AWAY, "-") as process:
        process.write(b"one\ntwo\nthree")
        process.stdin.close()
        assert process.wait() == 4
        (line,) = process.rest("stdout")
        assert line.startswith(f"persisted: 3 lines for {BOB.did.short} (in ")
        assert "`signedwire outbox list` shows what waits" in process.rest("stderr")[-1]
    with Process("send", AWAY, "-", "--json", "--until", "accepted") as process:
        process.write(b"four\n")
        process.stdin.close()
        assert process.wait() == 4
    payloads = [
        run("outbox", "show", str(row["id"]), "--json").objects[0]["payload"]
        for row in run("outbox", "list", "--json").objects
    ]
    assert payloads == ["one", "two", "three", "four"]


def test_a_full_store(alice: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_OUTBOX_LIMIT", "1")
    assert run("send", AWAY, "x").exit_code == 4
    expect_one_sentence(run("send", AWAY, "x"), 9, "the outbox holds its limit of 1 messages")


# -- listen -------------------------------------------------------------------------------


def test_a_listener_has_a_store_and_a_sender_with_its_key_goes_without(
    tmp_path: Path, key: Path
) -> None:
    process, peer = start_listening("--count", "1")
    with process:
        path = default_store(tmp_path, Identity.load(key))
        assert path.exists()
        ran = run("outbox", "list")
        expect_one_sentence(ran, 9, f"cannot open the store {path}: another process", "Wait until")
        ran = run("listen", "--timeout", "1")
        expect_one_sentence(ran, 9, "another process", "`signedwire id new FILE`")
        ran = run("send", peer, "x", "--store", str(path))
        expect_one_sentence(ran, 9, "another process")
        ran = run("send", peer, "x")
        assert ran.exit_code == 0, ran
        assert ran.stdout.startswith("accepted: 1 byte by ")
        assert ran.stderr == (
            f"another process has {path} open. So this command works without a store, "
            "and does not keep a message that it cannot deliver now\n"
        )
        assert process.wait() == 0


def test_what_was_not_printed_before_a_crash_is_printed_after_it(tmp_path: Path, key: Path) -> None:
    run("id", "new")
    us = Identity.load(key)
    path = tmp_path / "s.db"
    with listener(us, store=path) as node, Node(BOB) as bob:
        assert node.address is not None
        bob.routing.update(node.did, node.address)
        bob.send(node.did, b"not done")
    ran = run("listen", "--store", path, "--count", "1", "--timeout", "5")
    assert ran.exit_code == 0, ran
    assert ran.stdout.endswith("(again) not done\n")
    ran = run("listen", "--store", path, "--count", "1", "--timeout", "0.1")
    assert ran.exit_code == 5, "it is done"


def test_a_listener_sends_what_waits_for_the_peers_that_it_knows(
    tmp_path: Path, alice: Identity, bob: Node
) -> None:
    run("send", AWAY, "waits")
    peers = tmp_path / "peers.toml"
    peers.write_text(f'[peers]\n"{BOB.did}" = "{bob.address}"\n')
    process, _ = start_listening("--peers", str(peers))
    with process:
        message = bob.receive(LIMIT)
        assert message is not None
        assert message.payload == b"waits"


# -- which store --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [("file", "theirs.db"), ("environment", "env.db"), ("none", None), ("option", "mine.db")],
)
def test_the_store_is_named_by_option_configuration_or_default(
    given: str,
    expected: str | None,
    alice: Identity,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"store = {json.dumps(str(tmp_path / 'theirs.db'))}\n")
    options = ["--config", str(config)]
    if given in ("environment", "none"):
        value = "none" if expected is None else str(tmp_path / expected)
        monkeypatch.setenv("SIGNEDWIRE_STORE", value)
    if given == "option":
        options += ["--store", str(tmp_path / "mine.db")]
    run("send", AWAY, "x", *options)
    assert [each.name for each in tmp_path.glob("*.db")] == ([expected] if expected else [])
    assert not (tmp_path / "state").exists()
    ran = run("outbox", "list", "--json", *options)
    if expected is None:
        assert json.loads(ran.stderr)["message"] == "the configuration says store = none"
    else:
        assert len(ran.objects) == 1


def test_the_configuration_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_STORE", "/a/node.db")
    assert 'store = "/a/node.db"' in run("config", "show").stdout
    values = {each["name"]: each["value"] for each in run("config", "show", "--json").objects}
    assert (values["store"], values["ack"]) == ("/a/node.db", "manual")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_STATE_HOME": "/s"}, "/s/signedwire"),
        ("linux", {"XDG_STATE_HOME": "s"}, "/home/a/.local/state/signedwire"),
        ("linux", {"XDG_STATE_HOME": ""}, "/home/a/.local/state/signedwire"),
        ("darwin", {}, "/home/a/Library/Application Support/signedwire"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/signedwire"),
        ("win32", {"LOCALAPPDATA": ""}, "/home/a/AppData/Local/signedwire"),
    ],
)
def test_the_folder_of_each_platform(
    platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", "/home/a")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert state_folder() == Path(expected)


def test_a_folder_that_cannot_be_made(
    alice: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("a file")
    expect_one_sentence(run("send", AWAY, "x"), 3, "cannot make the folder", "--no-store")


def test_a_store_of_another_key(alice: Identity, tmp_path: Path) -> None:
    run("send", AWAY, "x", "--store", tmp_path / "s.db")
    other = tmp_path / "other.pem"
    run("id", "new", other)
    ran = run("outbox", "list", "--store", tmp_path / "s.db", "--identity", other)
    expect_one_sentence(ran, 9, f"it belongs to {alice.did}")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["outbox", "list"], ["there is no store ", "`signedwire send` and `signedwire listen`"]),
        (["outbox", "list", "--store", "/no/f"], ["there is no store /no/f", "Is its name right?"]),
        (["dead", "show", "x"], ["invalid value for 'ID'"]),
    ],
    ids=" ".join,
)
def test_no_store_no_command(args: list[str], parts: list[str], alice: Identity) -> None:
    expect_one_sentence(run(*args), 2 if args[-1] == "x" else 3, *parts)


def test_no_identity_is_made_for_looking(key: Path) -> None:
    expect_one_sentence(run("outbox", "list"), 3, f"the key file {key}: there is no such file")
    assert not key.exists()


# -- outbox -------------------------------------------------------------------------------


@pytest.fixture
def full(alice: Identity, tmp_path: Path) -> Path:
    """The path of a store with two messages to Bob and one to Carol, who are not reachable."""
    path = default_store(tmp_path, alice)
    run("send", AWAY, "one", "--priority", "high")
    run("send", AWAY, "\x1b[31m", "--deadline", "1000")
    carol = Identity.from_seed(bytes(32)).did
    run("send", f"{carol}@127.0.0.1:1", "three")
    return path


def ids(*command: str) -> list[str]:
    return [str(row["id"]) for row in run(*command, "list", "--json").objects]


def test_list(full: Path, alice: Identity) -> None:
    ran = run("outbox", "list")
    assert ran.exit_code == 0, ran
    lines = ran.stdout.splitlines()
    assert len(lines) == 3
    assert f"to {BOB.did}  normal  5 bytes  queued 20" in lines[0]
    assert "  until 20" in lines[0]
    assert "  no deadline  " in lines[1]
    assert "failed attempt" in lines[1]
    assert ": cannot connect to 127.0.0.1:1" in lines[1]
    assert ran.stderr.startswith("3 messages waiting, ")
    assert run("outbox", "list", "--limit", "1").stderr.startswith("3 messages waiting, 1 shown")
    assert len(run("outbox", "list", "--to", str(BOB.did)).stdout.splitlines()) == 2
    rows = run("outbox", "list", "--json").objects
    assert rows[1]["recipient"] == str(BOB.did)
    assert rows[1]["sender"] == str(alice.did)
    assert (rows[1]["priority"], rows[1]["size"], rows[1]["expires_at_us"]) == ("high", 3, None)
    assert rows[1]["attempts"] > 0
    assert rows[1]["last_error"].startswith("cannot connect")
    assert "payload" not in rows[1]


def test_show(full: Path) -> None:
    first, second, _ = ids("outbox")
    ran = run("outbox", "show", first)
    assert ran.exit_code == 0, ran
    assert "payload   \\x1b[31m\n" in ran.stdout or "payload   hex " in ran.stdout
    assert "\x1b" not in ran.stdout
    assert f"to        {BOB.did}\n" in ran.stdout
    assert run("outbox", "show", second, "--json").objects[0]["payload"] == "one"
    expect_one_sentence(run("outbox", "show", "7"), 1, "no message 7 waits")


def test_drop(full: Path) -> None:
    first, second, third = ids("outbox")
    ran = run("outbox", "drop", first, "7", first, "--json")
    assert ran.exit_code == 1
    assert ran.objects == [{"ids": [int(first)], "missing": [7]}]
    assert json.loads(ran.stderr)["message"] == "there is no message 7"
    assert ids("outbox") == [second, third]
    assert run("outbox", "drop", "--to", str(BOB.did)).stdout == "dropped 1 message\n"
    assert run("outbox", "drop", "--all").stdout == "dropped 1 message\n"
    assert ids("outbox") == []
    expect_one_sentence(run("outbox", "drop"), 2, "which messages?", "--all")
    expect_one_sentence(run("outbox", "drop", "1", "--all"), 2, "exclude each other")


def message_ids(*command: str) -> list[str]:
    return [str(row["message_id"]) for row in run(*command, "list", "--json").objects]


def test_a_message_is_named_by_the_start_of_its_id(full: Path) -> None:
    numbers, names = ids("outbox"), message_ids("outbox")
    lines = run("outbox", "list").stdout.splitlines()
    starts = [f"{number}  {name[:8]}  to " for number, name in zip(numbers, names, strict=True)]
    assert all(map(str.startswith, lines, starts)), lines
    ran = run("outbox", "show", names[0][:8].upper())
    assert f"id        {numbers[0]}\nmessage   {names[0]}\n" in ran.stdout
    absent = "".join("f" if digit != "f" else "e" for digit in names[0])
    ran = run("outbox", "drop", names[1][:8], names[1], numbers[1], absent[:9], "--json")
    assert ran.exit_code == 1
    assert ran.objects == [{"ids": [int(numbers[1])], "missing": [absent[:9]]}]
    assert f"there is no message {absent[:9]}" in ran.stderr
    assert ids("outbox") == [numbers[0], numbers[2]]
    expect_one_sentence(run("outbox", "show", absent), 1, f"no message {absent} waits")
    for text in (names[0][:7] + "g", "abcdef", f"{names[0]}0"):
        ran = run("outbox", "drop", text)
        expect_one_sentence(ran, 2, f"{text!r} is neither a number", "8 to 32 hex digits")
    assert ids("outbox") == [numbers[0], numbers[2]]


def test_a_name_of_several_messages_changes_none(
    alice: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter(["0123456789abcdef" * 2, "01234567" + "f" * 24])
    monkeypatch.setattr(
        "signedwire.sending.new_ids", lambda count: [bytes.fromhex(next(made))] * count
    )
    run("send", AWAY, "one")
    run("send", AWAY, "two")
    first, second = ids("outbox")
    ran = run("outbox", "drop", second, "01234567")
    expect_one_sentence(
        ran,
        2,
        "01234567 is the name of 2 messages: "
        f"{'0123456789abcdef' * 2} (number {first}), 01234567{'f' * 24} (number {second})",
        "Nothing was changed. Give more digits",
    )
    expect_one_sentence(run("outbox", "show", "01234567"), 2, "is the name of 2 messages")
    assert ids("outbox") == [first, second]
    assert run("outbox", "drop", "012345678").stdout == "dropped 1 message\n"
    assert ids("outbox") == [second]


def test_retry(full: Path) -> None:
    ran = run("outbox", "retry")
    assert ran.exit_code == 0, ran
    assert ran.stdout == "2 peers will be tried again\n"
    assert "`signedwire listen --peers FILE`" in ran.stderr
    assert {row["attempts"] for row in run("outbox", "list", "--json").objects} == {0}
    ran = run("outbox", "retry", "--to", str(BOB.did), "--json")
    assert ran.objects == [{"dids": [str(BOB.did)]}]
    assert run("outbox", "retry", "--to", str(Identity.generate().did)).stderr == ""


def test_export_and_verify(full: Path, tmp_path: Path, alice: Identity) -> None:
    file = tmp_path / "out.txt"
    ran = run("outbox", "export", file)
    assert ran.stdout == f"wrote 3 envelopes to {file}\n"
    ran = run("verify", file, "--json")
    assert ran.exit_code == 0, ran
    assert {found["sender"] for found in ran.objects} == {str(alice.did)}
    assert {found["payload"] for found in ran.objects} == {"one", "\x1b[31m", "three"}
    envelope = SignedEnvelope.decode(bytes.fromhex(file.read_text().split()[0]))
    assert envelope.recipient == BOB.did
    file.write_text(file.read_text().replace("6f6e65", "6f6e64"))
    assert run("verify", file).exit_code == 1
    expect_one_sentence(run("outbox", "export", file), 3, "exists already")
    expect_one_sentence(run("outbox", "export", "/no/f"), 3, "cannot write /no/f: No such file")
    assert run("outbox", "export", tmp_path / "2", "--json").objects == [
        {"file": str(tmp_path / "2"), "envelopes": 3}
    ]


# -- dead ---------------------------------------------------------------------------------


def test_dead_letters(full: Path, alice: Identity, bob: Node) -> None:
    make_dead(full, alice)
    assert run("outbox", "list").stderr == "0 messages waiting, 0 bytes; 3 dead letters\n"
    ran = run("dead", "list")
    assert ran.stderr == "3 dead letters\n"
    assert "  refused (it \\x1b[31mwill not) at 20" in ran.stdout
    assert run("dead", "list", "--limit", "2").stderr == "2 dead letters\n"
    letters = run("dead", "list", "--json", "--to", str(BOB.did)).objects
    assert [letter["reason"] for letter in letters] == ["refused", "refused"]
    first, second, third = ids("dead")
    ran = run("dead", "show", second)
    assert "state     refused (it" in ran.stdout
    assert run("dead", "show", second, "--json").objects[0]["payload"] == "one"
    expect_one_sentence(run("dead", "show", "99"), 1, "there is no dead letter 99")

    assert f"{second}  {message_ids('dead')[1][:8]}  to " in run("dead", "list").stdout
    ran = run("dead", "retry", message_ids("dead")[1][:8], "99")
    assert ran.exit_code == 1
    assert ran.stdout == "put back into the outbox: 1 message\n"
    assert ids("dead") == [first, third]
    (waiting,) = run("outbox", "list", "--json").objects
    assert (waiting["priority"], waiting["is_written"]) == ("high", False)
    assert run("dead", "drop", "--all").stdout == "dropped 2 messages\n"
    run("send", f"{BOB.did}@{bob.address}", "now")
    payloads = [message.payload for message in (bob.receive(LIMIT), bob.receive(LIMIT)) if message]
    assert payloads == [b"one", b"now"]
