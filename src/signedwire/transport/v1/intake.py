"""Takes v1 messages to the inbox: checked in threads, logged as evidence, in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol, TypeVar

from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.policy import AdmissionContext, header_of
from signedwire.delivery.receipt import future_waker
from signedwire.errors import StoreError
from signedwire.transport.runtime import Runtime
from signedwire.transport.v1.validator import V1Validator
from signedwire.types import Did, Priority, Reason

__all__ = ["V1Intake"]

T = TypeVar("T")
A = TypeVar("A")
_MAX_VERIFY_THREADS: Final = 4


class _Receiver(Protocol):
    async def stop(self) -> bool:
        """End the checks of received frames."""


class V1Intake:
    """The common part of all v1 connections of a node.

    Args:
        runtime: The surroundings of all parts of the node.
        endpoint: The sessions of all peers.
    """

    def __init__(self, runtime: Runtime, endpoint: Endpoint) -> None:
        config = runtime.config
        self._runtime = runtime
        self._endpoint = endpoint
        self.validator = V1Validator(
            config, runtime.us, endpoint.access.is_key_denied, endpoint.v2_speakers
        )
        self.threads = config.verify_threads or min(_MAX_VERIFY_THREADS, os.cpu_count() or 1)
        self.busy: set[_Receiver] = set()
        """Receivers whose frames are being checked, also after the end of the connection."""
        self._executor: ThreadPoolExecutor | None = None
        self._unlogged = 0
        """Messages that the evidence log does not have yet."""

    async def end(self) -> bool:
        """End all checks. Returns what `wait_uncancelled()` does."""
        is_cancelled = False
        for receiver in tuple(self.busy):
            is_cancelled |= await receiver.stop()
        return is_cancelled

    def shut_down(self) -> None:
        """End the threads. Each one ends within some milliseconds, after its slice of frames."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def run_in_thread(self, function: Callable[[A], T], argument: A) -> asyncio.Future[T]:
        """Run a check in a thread."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(
                self.threads, thread_name_prefix="signedwire-verify"
            )
        return asyncio.get_running_loop().run_in_executor(self._executor, function, argument)

    async def inbox_room(self) -> None:
        """Wait until the application has received half of the messages that wait."""
        loop = asyncio.get_running_loop()
        log = self._endpoint.context.evidence
        if log is not None and self._unlogged:
            logged = loop.create_future()
            log.after([], partial(_set, logged))(None)
            await logged
        room = loop.create_future()
        if self._endpoint.inbox.when_room(future_waker(loop, room)):
            await room

    def has_room(self, priority: int = Priority.NORMAL) -> bool:
        """Whether there is room for a message of this priority."""
        log, inbox = self._endpoint.context.evidence, self._endpoint.inbox
        if log is None or not self._unlogged:
            return inbox.has_room(priority)
        waiting = len(inbox) + self._unlogged
        return log.has_room and waiting < self._runtime.config.inbox_limit

    def put(self, message: IncomingMessage, priority: int) -> bool:
        """Take a message, once the evidence log has it; `False`: there is no room."""
        log, denied = self._endpoint.context.evidence, self._endpoint.denials
        if denied.is_from_denied(message):  # since it was checked
            denied.discard([message])
            return True
        if (policies := self._endpoint.context.policies) and (
            reason := policies.admit(
                header_of(message.envelope.body), AdmissionContext("v1", message.is_proven)
            )
        ):
            self._runtime.drop(reason, message.proven_sender)
            return True
        if log is None:
            is_taken = self._endpoint.inbox.put(message, priority, *self._sender_of(message))
            self._runtime.counters.messages_received += is_taken
            return is_taken
        if not self.has_room(priority):
            return False
        self._unlogged += 1
        log.after([message], partial(self._on_logged, message, priority))(None)
        return True

    def _sender_of(self, message: IncomingMessage) -> tuple[Did | None, bool]:
        """Return the proven sender of a message, or `None`, and whether it is a known one."""
        sender = message.proven_sender
        return sender, sender is not None and sender in self._endpoint.context.known

    def _on_logged(self, message: IncomingMessage, priority: int, error: StoreError | None) -> None:
        self._unlogged -= 1
        if error is None:
            self._runtime.counters.messages_received += 1
            self._endpoint.inbox.add_many([message], priority, *self._sender_of(message))
        else:
            self._runtime.drop(Reason.STORE_FAILED, message.proven_sender)


def _set(future: asyncio.Future[None], _: StoreError | None) -> None:
    if not future.done():
        future.set_result(None)
