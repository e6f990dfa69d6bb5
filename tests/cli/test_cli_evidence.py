"""`signedwire evidence`: a sound log, every way to be wrong, and what is said of it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from clikit import Process, Ran, expect_one_sentence, isolate, run, start_listening

from linkkit import ALICE, BOB, alone, body
from signedwire import Identity, SignedEnvelope
from signedwire.cli.exit_codes import ExitCode
from signedwire.evidence.chain import Chain, LogHeader


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


@pytest.mark.parametrize("data", [None, b"", b"something else", pieces()[0][:-1]])
def test_what_is_no_log_has_the_code_that_the_docs_say(path: Path, data: bytes | None) -> None:
    if data is not None:
        path.write_bytes(data)
    ran = run("evidence", "verify", path)
    page = Path(__file__).parents[2].joinpath("docs", "evidence.md").read_text(encoding="utf-8")
    said = re.search(r"with (\d+) if a file cannot\s+be read, or\s+is no evidence log", page)
    assert said is not None
    assert ran.exit_code == int(said[1]) == ExitCode.FILE
    shown = " ".join(run("evidence", "verify", "--help").stdout.split())
    assert f"{ran.exit_code}: it is no evidence log" in shown
    assert ran.stdout == ""


def test_a_sound_log_for_programs(path: Path) -> None:
    parts = pieces(previous=bytes(range(32)))
    [found] = verify(path, b"".join(parts), "--json").objects
    assert found == {
        "is_valid": True,
        "problem": None,
        "bad_file": None,
        "bad_record": None,
        "offset": None,
        "owner": str(BOB.did),
        "started_at_us": 1_700_000_000_000_000,
        "previous": bytes(range(32)).hex(),
        "first_record": None,
        "records": 4,
        "first_at_us": 1_700_000_000_000_001,
        "last_at_us": 1_700_000_000_000_004,
        "head": parts[-1][-32:].hex(),
        "given_head_at": None,
        "files": [{"file": str(path), "records": 4, "head": parts[-1][-32:].hex()}],
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
    assert f"continuing the log with head {previous.hex()}" in ran.stdout


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
        assert "the file ends inside it" in ran.stdout

    @pytest.mark.parametrize("command", ["verify", "show"])
    @pytest.mark.parametrize("data", [b"", b"SWCHAIN2", b"something else", b"\0" * 500])
    def test_what_is_no_log(self, path: Path, command: str, data: bytes) -> None:
        path.write_bytes(data)
        expect_one_sentence(run("evidence", command, path), 3, "evidence log", str(path))

    @pytest.mark.parametrize("command", ["verify", "show"])
    def test_what_cannot_be_read(self, path: Path, command: str) -> None:
        expect_one_sentence(run("evidence", command, path), 3, f"cannot read {path}", "No such")


class TestSeveralFiles:
    """A log that was rotated: its files verify as one chain."""

    @pytest.fixture
    def files(self, path: Path) -> list[Path]:
        head = bytes(32)
        files: list[Path] = []
        for last, count in ((4, 4), (6, 2), (None, 3)):
            header = LogHeader(bytes(BOB.did), 1_700_000_000_000_000 + len(files), head).encode()
            chain = Chain(header[-32:])
            records = [chain.record(9, alone([body(n + 1, b"x")])) for n in range(count)]
            name = path.name if last is None else f"{path.name}.{last:012}"
            files.append(path.with_name(name))
            files[-1].write_bytes(header + b"".join(records))
            head = chain.head
        return files

    @staticmethod
    def head_of(path: Path) -> str:
        return path.read_bytes()[-32:].hex()

    def test_in_their_order(self, files: list[Path]) -> None:
        ran = run("evidence", "verify", *files)
        assert (ran.exit_code, ran.stderr) == (0, "")
        lines = ran.stdout.splitlines()
        assert lines[2:5] == [
            f"file    {each}: {count} records" for each, count in zip(files, (4, 2, 3), strict=True)
        ]
        assert lines[5].startswith("sound   9 records, ")
        assert lines[6] == f"head    {self.head_of(files[-1])}"
        assert lines[7] == "valid   the chain and every signature hold"

    def test_in_any_order(self, files: list[Path]) -> None:
        """Files in the order in which a shell sorts `evidence.log*`."""
        [found] = run("evidence", "verify", *files[::-1], "--json").objects
        assert found["is_valid"]
        assert [each["file"] for each in found["files"]] == [str(each) for each in files]
        assert (found["records"], found["first_record"]) == (9, 1)

    def test_the_first_ones_were_removed(self, files: list[Path]) -> None:
        ran = run("evidence", "verify", *files[1:])
        assert ran.exit_code == 0
        head = self.head_of(files[0])
        words = f", continuing the log with head {head}, with record 5 of the whole chain\n"
        assert words in ran.stdout
        [found] = run("evidence", "verify", *files[1:], "--json").objects
        assert (found["first_record"], found["previous"], found["records"]) == (5, head, 5)
        [found] = run("evidence", "verify", files[2], "--json").objects
        assert (found["first_record"], found["previous"]) == (None, self.head_of(files[1]))

    def test_names_that_contradict_each_other_tell_nothing(self, files: list[Path]) -> None:
        names = [files[0].with_name("a.000000000044"), files[1].with_name("b.000000000040")]
        for each, name in zip(files[:2], names, strict=True):
            each.rename(name)
        [found] = run("evidence", "verify", names[1], files[2], "--json").objects
        assert (found["is_valid"], found["first_record"]) == (True, 39)
        names[1].rename(files[1].with_name("c.000000000001"))
        [found] = run(
            "evidence", "verify", files[1].with_name("c.000000000001"), files[2], "--json"
        ).objects
        assert (found["is_valid"], found["first_record"]) == (True, None)

    def test_one_between_is_missing(self, files: list[Path]) -> None:
        ran = run("evidence", "verify", files[0], files[2])
        assert ran.exit_code == 1
        head = self.head_of(files[1])
        assert f"invalid {files[2]} continues the log with head {head}" in ran.stdout

    def test_the_end_of_one_was_cut_off(self, files: list[Path]) -> None:
        data = files[1].read_bytes()
        files[1].write_bytes(data[: -(len(data) - 112) // 2])
        ran = run("evidence", "verify", *files)
        assert ran.exit_code == 1
        assert "or its end was cut off" in ran.stdout

    def test_a_bad_record_is_named_with_its_file(self, files: list[Path]) -> None:
        data = bytearray(files[1].read_bytes())
        data[200] ^= 1
        files[1].write_bytes(data)
        ran = run("evidence", "verify", *files)
        assert ran.exit_code == 1
        assert f"invalid {files[1]}: record 1, at byte 112: " in ran.stdout
        [found] = run("evidence", "verify", *files, "--json").objects
        assert (found["bad_file"], found["bad_record"]) == (str(files[1]), 1)

    def test_twice_the_same(self, files: list[Path]) -> None:
        copy = files[0].with_name("copy")
        copy.write_bytes(files[0].read_bytes())
        for given in ([files[0], files[0]], [*files, copy], [*files, files[2]]):
            ran = run("evidence", "verify", *given)
            assert ran.exit_code == 1, given
            assert "continue the same head" in ran.stdout or "given twice" in ran.stdout

    def test_of_two_owners(self, files: list[Path], path: Path) -> None:
        header = LogHeader(bytes(ALICE.did), 5, bytes.fromhex(self.head_of(files[2]))).encode()
        other = path.with_name("other")
        other.write_bytes(header)
        ran = run("evidence", "verify", *files, other)
        assert ran.exit_code == 1
        assert f"is the log of {ALICE.did}" in ran.stdout

    def test_two_chains(self, files: list[Path], path: Path) -> None:
        other = path.with_name("other")
        other.write_bytes(LogHeader(bytes(BOB.did), 2_000_000_000_000_000).encode())
        ran = run("evidence", "verify", *files, other)
        assert ran.exit_code == 1
        assert f"{other} continues no other file: it begins a chain of its own" in ran.stdout

    def test_a_head_in_any_of_them(self, files: list[Path]) -> None:
        ran = run("evidence", "verify", *files, "--head", self.head_of(files[1]))
        assert ran.exit_code == 0
        assert "is that of record 6, and 3 came since" in ran.stdout
        ran = run("evidence", "verify", files[0], "--head", self.head_of(files[1]))
        assert ran.exit_code == 1
        assert "no record has that head" in ran.stdout

    def test_one_that_cannot_be_read(self, files: list[Path], path: Path) -> None:
        ran = run("evidence", "verify", *files, path.with_name("missing"))
        expect_one_sentence(ran, 3, "cannot read", "missing")


def test_the_rest_of_a_log_says_what_is_missing(path: Path) -> None:
    parts = pieces()
    path.with_name("evidence.log.1").write_bytes(b"".join(parts[:3]))
    for command in ("verify", "show"):
        path.write_bytes(b"".join(parts[3:]))
        words = f"begins behind record 2 of {path}.1"
        expect_one_sentence(run("evidence", command, path), 3, words, "the part before it")


class TestShow:
    def test_every_record_on_a_line_that_is_harmless(self, path: Path) -> None:
        path.write_bytes(b"".join(pieces()))
        ran = run("evidence", "show", path)
        assert ran.exit_code == 0
        lines = ran.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
        assert lines[0] == (f"1  2023-11-14T22:13:20.000001Z  from {ALICE.did}  00000000  first")
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
    Identity.generate().save(tmp_path / "bob.pem")
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
    assert "Exit codes: 0 success" in ran.stdout


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_rotates_it(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_EVIDENCE", str(path))
    key = str(tmp_path / "bob.pem")
    Identity.generate().save(key)
    process, peer = start_listening("--count", "2")
    with process:
        with Process("send", peer, "one", "--identity", key) as sender:
            assert sender.wait() == 0
        process.signal(signal.SIGUSR1)
        while not (line := process.line("stderr")).startswith("rotated"):
            pass
        assert line.startswith("rotated the evidence log: 1 records, head ")
        with Process("send", peer, "two", "--identity", key) as sender:
            assert sender.wait() == 0
        assert process.wait() == 0
    old = path.with_name("evidence.log.000000000001")
    assert run("evidence", "show", old).stdout.split()[-1] == "one"
    assert run("evidence", "show", path).stdout.split()[-1] == "two"
    ran = run("evidence", "verify", path, old)
    assert (ran.exit_code, "sound   2 records" in ran.stdout) == (0, True)


class TestStarting:
    """A log that is configured and cannot be used: no node, and one sentence."""

    @staticmethod
    def expect(path: Path, monkeypatch: pytest.MonkeyPatch, *parts: str) -> None:
        monkeypatch.setenv("SIGNEDWIRE_EVIDENCE", str(path))
        ran = run("listen", "--timeout", "0.1", "--no-store")
        stderr = [line for line in ran.stderr.splitlines() if line.startswith("signedwire: ")]
        assert ran.exit_code == 9, ran
        assert ran.stdout == ""
        assert "listening" not in ran.stderr
        assert len(stderr) == 1, ran
        for part in (str(path), *parts):
            assert part in stderr[0]

    def test_a_folder(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path.mkdir()
        self.expect(path, monkeypatch, "Is a directory")

    def test_in_a_folder_that_is_not_there(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.expect(path.parent / "no" / "log", monkeypatch, "No such file", "directory first")

    def test_another_file(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n" * 9)
        self.expect(path, monkeypatch, "not an evidence log", "Name another file")

    def test_of_another_key(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path.write_bytes(pieces()[0])
        self.expect(path, monkeypatch, "it belongs to")

    def test_a_pipe(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if os.name == "posix":
            os.mkfifo(path)
            self.expect(path, monkeypatch, "not a regular file")

    def test_another_process_has_it(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SIGNEDWIRE_EVIDENCE", str(path))
        process, _ = start_listening("--no-store")
        with process:
            self.expect(path, monkeypatch, "another process", "Stop the other one")
