"""`signedwire evidence`: a sound log, every way to be wrong, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clikit import Process, Ran, expect_one_sentence, isolate, run, start_listening

from linkkit import ALICE, BOB, alone, body
from signedwire import SignedEnvelope
from signedwire.wire.evidence_log import Chain, LogHeader


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence.log"


def pieces(previous: bytes = bytes(32), owner: bytes = bytes(BOB.did)) -> list[bytes]:
    """Header and four records; the third is of v1."""
    header = LogHeader(owner, 1_700_000_000_000_000, previous).encode()
    chain = Chain(header[-32:])
    envelopes = [
        alone([body(1, b"first")]),
        alone([body(n, b"\x1b[31m%d" % n) for n in range(2, 30)], 20),
        SignedEnvelope.sign(ALICE, BOB.did, b"of v1", sequence_number=3),
        alone([body(30, b"last")]),
    ]
    times = range(1_700_000_000_000_001, 1_700_000_000_000_005)
    return [header, *map(chain.record, times, envelopes)]


def verify(path: Path, data: bytes, *args: str) -> Ran:
    path.write_bytes(data)
    return run("evidence", "verify", path, *args)


def test_a_sound_log(path: Path) -> None:
    parts = pieces()
    ran = verify(path, b"".join(parts))
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        f"owner   {BOB.did}",
        "begun   2023-11-14T22:13:20.000000Z",
        "sound   4 records, 2023-11-14T22:13:20.000001Z to 2023-11-14T22:13:20.000004Z",
        f"head    {parts[-1][-32:].hex()}",
        "valid   the chain and every signature hold",
    ]


def test_a_sound_log_for_programs(path: Path) -> None:
    parts = pieces(previous=bytes(range(32)))
    [found] = verify(path, b"".join(parts), "--json").objects
    assert found == {
        "is_valid": True,
        "problem": None,
        "bad_record": None,
        "offset": None,
        "owner": str(BOB.did),
        "started_at_us": 1_700_000_000_000_000,
        "previous": bytes(range(32)).hex(),
        "records": 4,
        "first_at_us": 1_700_000_000_000_001,
        "last_at_us": 1_700_000_000_000_004,
        "head": parts[-1][-32:].hex(),
        "given_head_at": None,
    }


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_a_log_without_records(path: Path, args: tuple[str, ...]) -> None:
    ran = verify(path, pieces()[0], *args)
    assert ran.exit_code == 0
    if args:
        assert ran.objects[0]["first_at_us"] is None
    else:
        assert "sound   0 records\n" in ran.stdout


def test_a_log_that_continues_another_names_its_head(path: Path) -> None:
    previous = bytes(range(32))
    ran = verify(path, b"".join(pieces(previous)))
    assert f"going on from the log with head {previous.hex()}" in ran.stdout


def test_an_owner_that_is_no_did_is_shown_in_hex(path: Path) -> None:
    ran = verify(path, pieces(owner=bytes(32))[0])
    assert f"owner   {'00' * 32}" in ran.stdout


class TestHead:
    def test_the_last_one(self, path: Path) -> None:
        parts = pieces()
        ran = verify(path, b"".join(parts), "--head", parts[-1][-32:].hex())
        assert ran.exit_code == 0
        assert ran.stdout.endswith("; the head that was given is that of record 4\n")

    def test_an_earlier_one(self, path: Path) -> None:
        parts = pieces()
        ran = verify(path, b"".join(parts), "--head", parts[1][-32:].hex().upper())
        assert ran.exit_code == 0
        assert ran.stdout.endswith("is that of record 1, and 3 came since\n")

    @pytest.mark.parametrize("args", [(), ("--json",)])
    def test_the_end_cut_off(self, path: Path, args: tuple[str, ...]) -> None:
        parts = pieces()
        ran = verify(path, b"".join(parts[:-1]), "--head", parts[-1][-32:].hex(), *args)
        assert ran.exit_code == 1
        if args:
            [found] = ran.objects
            assert (found["is_valid"], found["records"], found["bad_record"]) == (False, 3, None)
            assert "no record has that head" in found["problem"]
        else:
            assert "invalid no record has that head: the end was cut off" in ran.stdout

    @pytest.mark.parametrize("text", ["", "xyz", "ab", "ab" * 33])
    def test_what_is_none(self, path: Path, text: str) -> None:
        path.write_bytes(pieces()[0])
        ran = run("evidence", "verify", path, "--head", text)
        expect_one_sentence(ran, 2, "is no head: that is 64 hex digits")


class TestBad:
    def test_a_removed_record_is_named(self, path: Path) -> None:
        parts = pieces()
        ran = verify(path, b"".join(parts[:2] + parts[3:]))
        assert ran.exit_code == 1
        at = len(parts[0] + parts[1])
        assert f"invalid record 2, at byte {at}: its hash does not fit" in ran.stdout
        assert "a record before it was removed" in ran.stdout
        assert "sound   1 record," in ran.stdout
        assert f"head    {parts[1][-32:].hex()}" in ran.stdout

    def test_a_changed_payload_is_named(self, path: Path) -> None:
        data = b"".join(pieces()).replace(b"of v1", b"of v2")
        [found] = verify(path, data, "--json").objects
        assert (found["is_valid"], found["bad_record"], found["records"]) == (False, 3, 2)
        assert "it was changed: bad signature" in found["problem"]

    def test_a_torn_end(self, path: Path) -> None:
        ran = verify(path, b"".join(pieces())[:-1])
        assert ran.exit_code == 1
        assert "record 4, at byte" in ran.stdout
        assert "the file ends inside of it" in ran.stdout

    @pytest.mark.parametrize("command", ["verify", "show"])
    @pytest.mark.parametrize("data", [b"", b"SWCHAIN1", b"something else", b"\0" * 500])
    def test_what_is_no_log(self, path: Path, command: str, data: bytes) -> None:
        path.write_bytes(data)
        expect_one_sentence(run("evidence", command, path), 3, "evidence log", str(path))

    @pytest.mark.parametrize("command", ["verify", "show"])
    def test_what_cannot_be_read(self, path: Path, command: str) -> None:
        expect_one_sentence(run("evidence", command, path), 3, f"cannot read {path}", "No such")


class TestShow:
    def test_every_record_on_a_line_that_is_harmless(self, path: Path) -> None:
        path.write_bytes(b"".join(pieces()))
        ran = run("evidence", "show", path)
        assert ran.exit_code == 0
        lines = ran.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
        assert lines[0] == (f"1  2023-11-14T22:13:20.000001Z  from {ALICE.did}  #1  first")
        assert "\x1b" not in ran.stdout

    def test_for_programs(self, path: Path) -> None:
        parts = pieces()
        path.write_bytes(b"".join(parts))
        found = run("evidence", "show", path, "--json").objects
        assert [each["record"] for each in found] == [1, 2, 3, 4]
        assert [each["wire"] for each in found] == ["v2", "v2", "v1", "v2"]
        assert [each["hash"] for each in found] == [part[-32:].hex() for part in parts[1:]]
        assert found[2]["payload"] == "of v1"
        assert found[1]["offset"] == len(parts[0] + parts[1])
        # What it prints is what `signedwire verify` takes.
        saved = path.with_name("saved")
        saved.write_text("".join(json.dumps(each) + "\n" for each in found))
        ran = run("verify", saved)
        assert (ran.exit_code, ran.stderr) == (0, "4 valid, 0 invalid\n")

    def test_it_stops_at_the_first_bad_one(self, path: Path) -> None:
        parts = pieces()
        path.write_bytes(b"".join(parts[:3] + parts[4:]))
        ran = run("evidence", "show", path)
        assert ran.exit_code == 1
        assert len(ran.stdout.splitlines()) == 2
        assert ran.stderr.startswith("invalid: record 3, at byte")


def test_listen_keeps_it_by_the_configuration_and_send_leaves_it_alone(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNEDWIRE_EVIDENCE", str(path))
    process, peer = start_listening("--count", "1")
    with process:
        with Process("send", peer, "hello", "--identity", str(tmp_path / "bob.pem")) as sender:
            assert sender.wait() == 0
        assert process.wait() == 0
    ran = run("evidence", "show", path)
    assert (ran.exit_code, ran.stdout.split()[-1]) == (0, "hello")
    assert run("evidence", "verify", path).exit_code == 0


@pytest.mark.parametrize("command", ["verify", "show"])
def test_help(command: str) -> None:
    ran = run("evidence", command, "--help")
    assert ran.exit_code == 0
    assert "Exit codes: 0 done" in ran.stdout
