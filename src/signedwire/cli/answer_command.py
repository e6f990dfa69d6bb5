"""`signedwire answer`: a program replies to the requests of a subject."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from typing import Final

from signedwire.cli import keys
from signedwire.cli.addresses import command, listening_config, reachable
from signedwire.cli.errors import BadInput
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.formatting import count_of
from signedwire.cli.output import emit, escape, say
from signedwire.cli.request_options import AnswerOptions
from signedwire.cli.signals import end_on_signals, notify_ready, restoring_signals
from signedwire.cli.store_choice import choose, lock_of, prepare, tell_new
from signedwire.delivery.message import Message
from signedwire.node import Node
from signedwire.routing import RoutingTable
from signedwire.streams import open_standard_descriptors
from signedwire.types import Kind, Reason
from signedwire.wire.link_frames import MAX_REFUSAL_TEXT

__all__ = ["answer"]

_PASSED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""Variables of our environment that the program gets."""
_MOST_ERRORS: Final = 64 * 1024
"""Bytes of standard error that are kept."""


def answer(options: AnswerOptions) -> int:
    """Answer requests until a signal ends it."""
    words = _words(options.exec)
    config = listening_config(options, options.listen)
    identity = keys.load_or_create(options)
    chosen = choose(options, identity.did)
    routing = RoutingTable() if options.peers is None else RoutingTable.load(options.peers)
    open_standard_descriptors()
    node = Node(identity, config.replace(store=chosen.path), routing)
    with (
        restoring_signals(),
        asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner,  # uvloop leaks descriptors
        lock_of(identity.did) as lock,
    ):

        async def run() -> int:
            signal_came = end_on_signals()
            answering = _Answering(options, node, words)
            try:
                is_new = prepare(chosen)
                node.serve(options.subject, answering.handle, limit=options.limit)
                async with node:
                    lock.release()  # the store is open; from now on it is in use for others
                    if is_new:
                        tell_new(chosen)
                    await answering.run()
            except asyncio.CancelledError:
                if (code := signal_came()) is None:
                    raise  # Ctrl-C
                return code
            finally:
                answering.summarise()
            return ExitCode.DONE

        return runner.run(run())


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadInput(f"--exec {text!r} cannot be split: {error}", "Look at its quotes") from None
    if not words:
        raise BadInput("--exec is empty", "Name a program: --exec 'python3 battery.py'")
    if shutil.which(words[0]) is None:
        raise BadInput(f"there is no program {words[0]}", "Is its name right, and in PATH?")
    return words


class _Answering:
    """One run of `signedwire answer`."""

    def __init__(self, options: AnswerOptions, node: Node, words: list[str]) -> None:
        self._options = options
        self._node = node
        self._words = words
        self._most = node.config.max_payload_size
        self._answered = self._refused = 0
        self._is_announced = False

    async def run(self) -> None:
        """Say where the node listens, and refuse what is no request."""
        peer = f"{self._node.did}@{reachable(self._node.address)}"
        self._is_announced = True
        subject = shlex.quote(self._options.subject)
        say("answering; ask it with")
        say(f"  {command(self._node.config)} request {peer} --subject {subject}")
        if self._options.json:
            emit({"event": "answering", "peer": peer, "subject": self._options.subject})
        notify_ready()
        async for message in self._node.messages():
            what = "request" if message.kind is Kind.REQUEST else "message"
            message.nack(Reason.REFUSED, f"this peer takes no such {what}, it answers requests")

    def summarise(self) -> None:
        """Say how many requests were answered."""
        if not self._is_announced:
            return
        if self._options.json:
            with contextlib.suppress(OSError):  # the error of stdout is reported elsewhere
                emit({"event": "summary", "answered": self._answered, "refused": self._refused})
        else:
            say(f"answered {count_of(self._answered, 'request')}, refused {self._refused}")

    async def handle(self, message: Message) -> bytes | None:
        """Run the program for one request, and return its output."""
        done = asyncio.create_task(self._run(message))
        try:
            code, output, errors = await asyncio.shield(done)
        except asyncio.CancelledError:  # the deadline has passed, or the command ends
            done.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await done
            raise
        name = message.message_id[:8]
        if code == 0 and len(output) <= self._most:
            self._answered += 1
            self._tell(message, "answered", f"{len(output)} bytes")
            return output
        self._refused += 1
        why = f"its program ended with code {code}"
        if code == 0:
            why = f"its program wrote more than {self._most} bytes"
        elif line := _first_line(errors):
            why = line
        self._tell(message, "refused", f"{name}: {why}")
        message.nack(Reason.REFUSED, why)
        return None

    def _tell(self, message: Message, event: str, what: str) -> None:
        if self._options.json:
            emit(
                {
                    "event": event,
                    "sender": str(message.sender),
                    "message_id": message.message_id,
                    "detail": what,
                }
            )
        else:
            say(f"{event} {message.sender.short}: {escape(what)}")

    async def _run(self, message: Message) -> tuple[int, bytes, bytes]:
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        environment |= {
            "SIGNEDWIRE_SENDER": str(message.sender),
            "SIGNEDWIRE_SUBJECT": message.subject,
            "SIGNEDWIRE_MESSAGE_ID": message.message_id,
        }
        process = await asyncio.create_subprocess_exec(
            *self._words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            _, output, errors = await asyncio.gather(
                _feed(process.stdin, message.payload),
                _read(process.stdout, self._most + 1),
                _read(process.stderr, _MOST_ERRORS, drains=True),
            )
            code = 0 if len(output) > self._most else await process.wait()
            return code, output, errors
        finally:
            if process.returncode is None:  # else its number may be that of another process
                _kill(process)
                await process.wait()


async def _feed(stdin: asyncio.StreamWriter, payload: bytes) -> None:
    """Write the payload; a program need not read it."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(payload)
        await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


async def _read(stream: asyncio.StreamReader, most: int, *, drains: bool = False) -> bytes:
    """Read to the end, or `most` bytes; `drains`: read the rest too, and forget it."""
    pieces, size = [], 0
    while (drains or size < most) and (piece := await stream.read(65536)):
        if size < most:
            pieces.append(piece[: most - size])
        size += len(piece)
    return b"".join(pieces)


def _kill(process: asyncio.subprocess.Process) -> None:
    """End the program, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        elif process.returncode is None:
            process.kill()


def _first_line(errors: bytes) -> str:
    """Return the first line of standard error, as a refusal can carry it."""
    text = errors.strip().decode("utf-8", "replace").partition("\n")[0]
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown.encode()[:MAX_REFUSAL_TEXT].decode("utf-8", "ignore")
