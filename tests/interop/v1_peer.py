"""A live v1 peer for tests: the compiled package `omnimesh`, driven in a child process.

Start with `require_omnimesh()`, then:

    with V1Peer("production") as peer:
        peer.register_peer(our_did.hex(), "127.0.0.1:9001")
        peer.send_agent_command(our_did.hex(), "pick", b"robot-1", b"shelf-A12")
        reply = peer.receive(timeout=2)

Every call blocks the caller for a bounded time; in asyncio tests call it through
`asyncio.to_thread`. Calls on one peer are served one at a time.

A child process, because the client prints to stdout, never gives its port back
and can freeze its interpreter (see below). Control goes over a socketpair as JSON
lines; what the client prints goes to a file, see `V1Peer.output`.

What omnimesh 1.0.2 was seen to do, the same in both modes where none is named:

Life
- The key lives in the instance: each start has a new DID, on the same port too.
- The constructor returns within a millisecond, already listening on 127.0.0.1.
  A port in use is only printed ("TCP listener bind failed"); it then sends, and
  hears nothing. Without a port it takes 9000.
- `shutdown()` stops sending and receiving, but the TCP and UDP ports stay open
  until the process ends; so they do when the object is dropped without it.
- It also binds UDP 0.0.0.0:9999. Of several on one machine the first gets it; the
  others print "Failed to bind UDP gossip socket" and work all the same.
- `receive(ms)` returns None on time, within about 1 ms, and at once after a
  shutdown, from another thread too. It lets other threads run, but a Python
  signal handler waits for its end.

Sending
- Priority 1, payload type 0, version 7, for every kind. `timestamp_ns` is left
  zero. A MotionCommand always has both vectors, empty ones as `0a 00` and `12 00`.
- `send_*` returns None whether or not the message arrives, also for a DID that was
  never registered: nobody gets that one. Over 1024 bytes of encoded payload, a bad
  DID and a call after shutdown raise ValueError; numbers out of range OverflowError.
- One connection per address, kept open and reused, about 0.7 ms from end to end.
- When the receiver has closed the connection, the first message after that is
  lost (after FIN; after RST none was), and later ones go out on a new connection.
- A dead address costs each message 3 attempts over 0.6 s, then it is dropped. All
  peers wait meanwhile: behind 3 such messages one to a live peer took 1.8 s.
- A receiver that stops reading blocks the sender once the socket buffers and its
  queue are full (3,575 messages of 900 bytes in the former), for as long as watched
  (20 s), and *holding the GIL*: no thread or signal handler of that process runs any
  more. 20,000 to a fast reader arrived whole and in order.

Receiving
- The inbox holds 1024 messages; what arrives beyond is dropped without a word, so
  for volume call `receive_many` while sending.
- Every dict has `type`, `sender_did` (64 hex digits), `received_at_us`, and:
    agent_command     command_type, target_did (hex of the sender's target_id, any
                      length), payload (a list of ints); no timestamp_ns
    motion_command    linear_x … angular_z, deadline_ns; the three keys of a vector
                      are absent where the message has no such vector
    inference_result  model_id, confidence, label, latency_us; no raw_output
    heartbeat         uptime_ms, cpu_usage, mem_usage_kb, epoch; sender_did is that of
                      the envelope, not of the message
    llm_query         prompt, system_prompt, model
    llm_response      response, latency_us
    unknown           nothing else: what ModelWeights and SensorFusionFrame become
  float32 values come as such: 0.8 as 0.800000011920929.
- Delivered: any version, priority 0 to 3, payload type 0 to 4 (the payload decides,
  not the type), any message id, sequence, timestamp; duplicates and older sequences.
- Dropped without a word, connection kept: another recipient (all-zero and all-one
  too), a tampered header, payload or signature, another's signature, a byte after
  the signature, an empty or undecodable payload, bad UTF-8.
- Dropped with a line printed, connection kept: wrong magic, priority over 3, payload
  type over 4 (InvalidMagic, InvalidPriority, InvalidPayloadType), a frame shorter
  than an envelope (Truncated), 1025 bytes of payload or more (PayloadOverflow).
- Connection closed at once: length 0 or over 4096, from the length alone.
- Unsigned (64 zero bytes): production drops it without a word; lightweight delivers
  it under whatever DID it claims, its own too. That is the only difference.
- It never writes to a connection that it accepted.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, Literal, Self

__all__ = ["Mode", "V1Peer", "V1PeerGone", "free_port", "require_omnimesh"]

Mode = Literal["production", "lightweight"]

_START_TIMEOUT: Final = 10.0
_CALL_TIMEOUT: Final = 5.0
_MARGIN: Final = 5.0
"""How much later than the child itself the parent gives up on a call."""
_IDLE_LIMIT: Final = 120
"""Seconds without a call after which a child ends by itself, whatever happened to its parent."""


class V1PeerGone(Exception):
    """The child is not running, ended during a call, or was killed because it did not answer."""


def require_omnimesh() -> None:
    """Skip the calling test or module where `omnimesh` cannot be imported; fail if CI=true."""
    # Not at the top: the child runs this file too, and importing pytest is slow.
    import pytest

    try:
        import omnimesh  # noqa: F401
    except ImportError as error:
        reason = f"the live v1 peer needs omnimesh (Linux x86_64 only): {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason, allow_module_level=True)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class V1Peer:
    """One live v1 peer on 127.0.0.1, in a child process of its own.

    As a context manager it starts on entry, unless it runs already, and closes on
    exit. Methods raise what the client raised (`ValueError`, `OverflowError`,
    `TypeError`), or `V1PeerGone`; a child that does not answer in time is killed.
    """

    def __init__(self, mode: Mode = "production") -> None:
        self.mode = mode
        self._port: int | None = None
        self._did: str | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._unread = b""
        self._log: IO[bytes] | None = None
        self._lock = threading.Lock()

    # Life

    def start(self, listen_port: int | None = None) -> Self:
        """Start the child and return once it listens, on a free port unless one is given.

        Raises:
            V1PeerGone: it did not come up; with what it printed.
            RuntimeError: it runs already.
        """
        if self.is_running:
            raise RuntimeError(f"{self!r} runs already")
        if listen_port is not None:
            self._spawn(listen_port)
            return self
        for attempts_left in (2, 1, 0):
            try:
                self._spawn(free_port())
                break
            except V1PeerGone:
                # Somebody else may have taken the port since.
                if not attempts_left:
                    raise
        return self

    def restart(self) -> Self:
        """Kill the child and start another on the same port. It has a new DID."""
        port = self.port
        self.kill()
        return self.start(port)

    def kill(self) -> None:
        """End the child with SIGKILL, at once, as a crash would. Idempotent."""
        with self._lock:
            self._kill()

    def close(self) -> None:
        """End the child and drop what it printed. Idempotent.

        The same SIGKILL as `kill`: the client's own shutdown frees neither its port nor its
        threads, so there is nothing to be gentle about.
        """
        self.kill()
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"pid {self._child.pid}" if self._child and self.is_running else "not running"
        return f"<V1Peer {self.mode} on port {self._port}, {state}>"

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    # Facts

    @property
    def port(self) -> int:
        """The port of the last start."""
        if self._port is None:
            raise V1PeerGone("the peer was never started")
        return self._port

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._child is None:
            raise V1PeerGone("the peer is not running")
        return self._child.pid

    @property
    def did(self) -> str:
        """The DID of the last start, 64 hex digits."""
        if self._did is None:
            raise V1PeerGone("the peer was never started")
        return self._did

    def output(self) -> str:
        """What the client has printed since the last start, stdout and stderr together."""
        if self._log is None:
            return ""
        return Path(self._log.name).read_text(errors="replace")

    # The client's methods

    def register_peer(self, did: str, address: str) -> None:
        """Route `did` to `address`, an IP and a port; host names are refused."""
        self._call("register_peer", did, address)

    def send_agent_command(
        self, did: str, command_type: str, target_id: bytes = b"", payload_data: bytes = b""
    ) -> None:
        """Queue an AgentCommand. Success says nothing about delivery."""
        self._call("send_agent_command", did, command_type, target_id, payload_data)

    def send_motion_command(
        self,
        did: str,
        linear: tuple[float, float, float] = (0.0, 0.0, 0.0),
        angular: tuple[float, float, float] = (0.0, 0.0, 0.0),
        deadline_ns: int = 0,
    ) -> None:
        self._call("send_motion_command", did, *linear, *angular, deadline_ns)

    def send_heartbeat(
        self, did: str, uptime_ms: int = 0, cpu: int = 0, mem_kb: int = 0, epoch: int = 0
    ) -> None:
        self._call("send_heartbeat", did, uptime_ms, cpu, mem_kb, epoch)

    def send_llm_query(
        self, did: str, prompt: str, system_prompt: str = "", model: str = ""
    ) -> None:
        self._call("send_llm_query", did, prompt, system_prompt, model)

    def send_many(
        self,
        did: str,
        count: int,
        command_type: str = "bulk",
        payload_data: bytes = b"",
        *,
        timeout: float = 30.0,
    ) -> float:
        """Queue `count` AgentCommands in a row, and return the seconds that it took.

        The target_id of message i, from 0, is i as 8 bytes big-endian.
        """
        seconds: float = self._call(
            "send_many", did, count, command_type, payload_data, timeout=timeout
        )
        return seconds

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message as the client gives it, or None after `timeout` seconds."""
        received = self.receive_many(1, timeout)
        return received[0] if received else None

    def receive_many(self, count: int, timeout: float) -> list[dict[str, Any]]:
        """The next `count` messages, or those that came within `timeout` seconds in all."""
        messages: list[dict[str, Any]] = self._call(
            "receive_many", count, timeout, timeout=timeout + _MARGIN
        )
        return messages

    def inbox_len(self) -> int:
        """How many messages have arrived and wait for `receive`."""
        length: int = self._call("inbox_len")
        return length

    # The child

    def _spawn(self, port: int) -> None:
        if self._log is not None:
            self._log.close()
        self._log = tempfile.NamedTemporaryFile(prefix="v1-peer-", suffix=".log")  # noqa: SIM115
        self._port, self._did = port, None
        self._unread = b""
        deadline = time.monotonic() + _START_TIMEOUT
        with self._lock:
            self._control, theirs = socket.socketpair()
            try:
                with theirs:
                    self._child = subprocess.Popen(
                        # -I: nothing of the test run's environment reaches the child.
                        [
                            sys.executable,
                            "-I",
                            __file__,
                            str(theirs.fileno()),
                            self.mode,
                            str(port),
                        ],
                        stdin=subprocess.DEVNULL,
                        stdout=self._log,
                        stderr=self._log,
                        pass_fds=[theirs.fileno()],
                    )
                self._did = self._read_reply(deadline)
                self._await_listening(deadline)
            except BaseException:
                self._kill()
                raise

    def _await_listening(self, deadline: float) -> None:
        # A port in use is only printed. And a trial connection would leave its mark on the peer.
        while f"TCP listener started on {self.address}" not in (printed := self.output()):
            if "TCP listener bind failed" in printed or time.monotonic() > deadline:
                raise V1PeerGone(f"{self!r} does not listen; it printed:\n{printed}")
            time.sleep(0.002)

    def _call(self, name: str, *arguments: object, timeout: float = _CALL_TIMEOUT) -> Any:
        with self._lock:
            if self._control is None:
                raise V1PeerGone(f"{name} called on {self!r}")
            limit = int(timeout + _MARGIN)
            try:
                self._control.settimeout(timeout)
                self._control.sendall(_to_line([name, limit, *arguments]))
            except OSError as error:
                raise self._gone(name) from error
            try:
                return self._read_reply(time.monotonic() + timeout, name)
            except BaseException as error:
                # An answer that comes after we left would be taken for that of the next call.
                if not isinstance(error, _RAISED):
                    self._kill()
                raise

    def _read_reply(self, deadline: float, name: str = "start") -> Any:
        assert self._control is not None
        pieces = [self._unread]
        while b"\n" not in pieces[-1]:
            try:
                self._control.settimeout(max(0.001, deadline - time.monotonic()))
                piece = self._control.recv(1 << 20)
            except OSError as error:
                raise self._gone(name) from error
            if not piece:
                raise self._gone(name)
            pieces.append(piece)
        line, _, self._unread = b"".join(pieces).partition(b"\n")
        result, error_type, text = _from_line(line)
        if error_type is None:
            return result
        for known in _RAISED:
            if known.__name__ == error_type:
                raise known(text)
        raise V1PeerGone(f"{name} on {self!r}: {error_type}: {text}")

    def _gone(self, name: str) -> V1PeerGone:
        description = repr(self)
        self._kill()
        return V1PeerGone(f"{name} on {description} got no answer; it printed:\n{self.output()}")

    def _kill(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._child is not None:
            # Ours, and not waited for yet, so the pid cannot name another process.
            self._child.kill()
            self._child.wait(_CALL_TIMEOUT)
            self._child = None


_RAISED: Final = (ValueError, OverflowError, TypeError)


def _to_line(value: object) -> bytes:
    return json.dumps(value, default=lambda raw: {"hex": raw.hex()}).encode() + b"\n"


def _from_line(line: bytes) -> Any:
    return json.loads(
        line, object_hook=lambda found: bytes.fromhex(found["hex"]) if "hex" in found else found
    )


def _serve(control: socket.socket, mode: str, port: int) -> None:
    """Answer calls until the parent closes the channel. Runs in the child."""
    # SIGALRM ends the process even where a call holds the interpreter's lock for ever,
    # so no child outlives a lost parent by much.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_IDLE_LIMIT)
    import omnimesh

    client = omnimesh.Client(mode=mode, listen_port=port)

    def send_many(did: str, count: int, command_type: str, payload_data: bytes) -> float:
        started_at = time.perf_counter()
        for index in range(count):
            client.send_agent_command(did, command_type, index.to_bytes(8, "big"), payload_data)
        return time.perf_counter() - started_at

    def receive_many(count: int, timeout: float) -> list[dict[str, Any]]:
        return list(_received(client, count, timeout))

    ours: dict[str, Callable[..., object]] = {
        "send_many": send_many,
        "receive_many": receive_many,
    }
    control.sendall(_to_line([client.did, None, ""]))
    for line in control.makefile("rb"):
        name, limit, *arguments = _from_line(line)
        signal.alarm(limit)
        try:
            reply = [(ours.get(name) or getattr(client, name))(*arguments), None, ""]
        except Exception as error:  # noqa: BLE001
            reply = [None, type(error).__name__, str(error)]
        signal.alarm(_IDLE_LIMIT)
        control.sendall(_to_line(reply))


def _received(client: Any, count: int, timeout: float) -> Iterator[dict[str, Any]]:
    deadline = time.monotonic() + timeout
    for _ in range(count):
        left = deadline - time.monotonic()
        message = client.receive(max(0, math.ceil(left * 1000)))
        if message is None:
            return
        yield message


if __name__ == "__main__":
    try:
        with contextlib.suppress(ConnectionError):
            _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3]))
    except Exception:  # noqa: BLE001
        traceback.print_exc()
    finally:
        # The client's own threads would keep the process; nothing of it needs an end.
        os._exit(0)
