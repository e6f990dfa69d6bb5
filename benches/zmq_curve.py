"""A ØMQ peer with CURVE in a process of its own.

    python -m benches.zmq_curve LIMIT SYSTEM

It answers what a peer of ours does (see `child`), by pyzmq's blocking API, which is its
fastest: PUSH to PULL for throughput, DEALER to DEALER for round trips, at ØMQ's default
high-water mark, where `send()` blocks. Each side has a CURVE key; the dialer checks the
listener's, and nobody the dialer's, for which ØMQ wants a ZAP handler of one's own.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import zmq

from benches.child import ANSWER_TIMEOUT, MAX_PINGS, Arrivals, serve_blocking

__all__ = ["main"]

_LOOK_INTERVAL: Final = 20
"""Milliseconds of silence after which the receiver looks whether it is over."""


class CurvePeer:
    """Either side; its sockets belong to the main thread."""

    def __init__(self) -> None:
        self._public_key, self._secret_key = zmq.curve_keypair()
        self._context = zmq.Context()
        self._pull, self._address = self._listen(zmq.PULL)
        self._pull.setsockopt(zmq.RCVTIMEO, _LOOK_INTERVAL)
        self._echo, self._echo_address = self._listen(zmq.DEALER)
        self._arrivals = Arrivals()

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.curve_publickey, socket.curve_secretkey = self._public_key, self._secret_key
        return socket

    def _listen(self, kind: int) -> tuple[zmq.Socket[bytes], str]:
        socket = self._socket(kind)
        socket.curve_server = True
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        return socket, f"tcp://127.0.0.1:{port}"

    def _dial(self, kind: int, key: bytes, address: str) -> zmq.Socket[bytes]:
        socket = self._socket(kind)
        socket.curve_serverkey = key
        socket.connect(address)
        return socket

    def open(self) -> dict[str, str]:
        return {
            "did": self._public_key.decode(),
            "address": self._address,
            "echo_address": self._echo_address,
        }

    def route(self, did: str, address: str, echo_address: str) -> None:
        self._push = self._dial(zmq.PUSH, did.encode(), address)
        self._ask = self._dial(zmq.DEALER, did.encode(), echo_address)
        self._ask.setsockopt(zmq.RCVTIMEO, int(ANSWER_TIMEOUT * 1000))

    def send(self, size: int, seconds: float) -> dict[str, float]:
        send, payload = self._push.send, bytes(size)
        sent = 0
        cpu = time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            send(payload)
            sent += 1
        return {"sent": sent, "cpu": time.process_time() - cpu}

    def receive(self) -> dict[str, float]:
        receive = self._pull.recv
        self._arrivals = arrivals = Arrivals()
        while not arrivals.is_over():
            try:
                while True:
                    len(receive())
                    arrivals.add()
            except zmq.Again:
                continue
        return arrivals.report()

    def expect(self, count: int) -> None:
        """From the channel's thread, while `receive()` runs."""
        self._arrivals.expect(count)

    def echo(self) -> None:
        while (message := self._echo.recv()).strip(b"\0"):
            self._echo.send(message)

    def ping(self, size: int, seconds: float) -> dict[str, list[float]]:
        ask, payload = self._ask, b"\1" + bytes(size - 1)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and len(times) < MAX_PINGS:
            started_at = time.perf_counter()
            ask.send(payload)
            try:
                ask.recv()
            except zmq.Again:
                raise TimeoutError("a message did not come back") from None
            times.append(time.perf_counter() - started_at)
        ask.send(bytes(size))
        return {"times": times}


def main(limit: float) -> None:
    """Serve until the parent is gone."""
    serve_blocking(limit, CurvePeer)


if __name__ == "__main__":
    main(float(sys.argv[1]))
