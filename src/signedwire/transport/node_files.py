"""Opens and closes the files of one node: store, access file and evidence log.

    open()    store ─→ access file ─→ evidence log ─→ unhandled messages into the inbox
    end       evidence log ─→ store; the inbound connections end between the two

Each file is opened and closed in a thread of its own, because a disk may take long or never
answer. So each wait has a limit of time, after which the thread continues alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.store import Store
from signedwire.evidence.log import EvidenceLog
from signedwire.logs import fields
from signedwire.transport.evidence_driver import close_evidence, open_evidence
from signedwire.transport.inbox_driver import InboxDriver
from signedwire.transport.own_thread import FileOpener, in_own_thread
from signedwire.transport.runtime import Runtime
from signedwire.transport.store_driver import StoreDriver
from signedwire.transport.uncancelled import run_steps, wait_uncancelled

__all__ = ["NodeFiles", "OpenStore"]

OpenStore: TypeAlias = Callable[[Callable[[Callable[[], None]], object]], Store]
"""Opens a store. Its argument is the function by which the store calls its callbacks."""

_LEAST_FOR_A_DISK: Final = 1.0
"""Minimum time in seconds for the last commit of each file, even after the deadline.

Memory cards and shared disks pause for some hundred milliseconds now and then.
"""


class NodeFiles:
    """The files of one node. A node without a file has neither store nor evidence log.

    Methods run in the loop of the node.

    Args:
        runtime: The surroundings of the parts of the node.
        endpoint: The sessions of all peers. Its context gets the drivers of what is opened.
        open_store: Opens the store of the node, in a thread of its own; `None`: no store.
    """

    def __init__(self, runtime: Runtime, endpoint: Endpoint, open_store: OpenStore | None) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._open_store = open_store
        self._opener = FileOpener(runtime.config.close_timeout)
        self.store: StoreDriver | None = None
        """Drives the store of a node that has a file; `None` without one."""
        self.evidence: EvidenceLog | None = None
        """Keeps what is accepted; `None` without one."""

    async def open(self) -> None:
        """Open the files that the configuration names, and restore what they have of the inbox.

        If one cannot be opened, those before it stay open; the caller closes them.

        Raises:
            StoreOpenError: the store cannot be used.
            ConfigError: the access file cannot be used, or the evidence log has no owner.
            EvidenceLogError: the evidence log cannot be used.
        """
        runtime, endpoint = self._runtime, self._endpoint
        context = endpoint.context
        store = inbox_store = None
        if self._open_store is not None:
            open_ = partial(self._open_store, runtime.loop.call_soon_threadsafe)
            store = await self._opener.open(open_, Store.close)
            self.store = context.store = StoreDriver(runtime, endpoint, store)
            context.inbox_store = inbox_store = InboxDriver(runtime, store)
        await self._read_access_file()
        endpoint.access._open(store)
        self.evidence = context.evidence = await open_evidence(runtime, store, self._opener)
        if inbox_store is not None:
            await inbox_store.restore(endpoint)

    async def _read_access_file(self) -> None:
        """Read the access file in a thread, because many lines take seconds."""
        if self._runtime.config.access_file is not None:
            await self._opener.open(self._endpoint.access.reload, lambda _: None)

    def start_sending(self) -> None:
        """Load the messages that an earlier process has left, because the node is open now."""
        if self.store is not None:
            self.store.start()

    def on_wall_step(self) -> None:
        """Move the deadlines of stored messages, because the wall clock was set."""
        if self.store is not None:
            self.store.on_clock_step()

    async def flush(self, deadline: float) -> None:
        """Wait until everything stored before is committed, or until `deadline`, loop time."""
        if self.store is not None:
            await self.store.flush(deadline)

    # -- the end ----------------------------------------------------------------------------

    async def close_evidence(self, deadline: float) -> bool:
        """Write all accepted messages, and close the evidence log.

        Args:
            deadline: The end of the wait for the disk, loop time.

        Returns:
            Whether the caller was cancelled meanwhile.
        """
        return await close_evidence(self._runtime, self.evidence, _left_for_a_disk(deadline))

    async def close_store(self, deadline: float) -> bool:
        """Commit what waits, and close the store. Messages that are not committed by then fail.

        Args:
            deadline: The end of the wait for the disk, loop time.

        Returns:
            Whether the caller was cancelled meanwhile.
        """
        if self.store is None:
            return False
        self.store.end()
        closing = in_own_thread(self.store.store.close, _left_for_a_disk(deadline))
        is_cancelled = await wait_uncancelled(closing)
        if (fault := closing.exception()) is not None:
            self._runtime.log.note_fault("closing the store", fault)
            self.store.give_up_uncommitted()
        elif not closing.result():
            self._warn_of_silent_disk()
            self.store.give_up_uncommitted()
        return is_cancelled

    async def free(self) -> None:
        """Close the files of a node whose loop was closed before its end. In another loop.

        Drivers and receipts belong to the closed loop, so they stay as they are. A file that
        cannot be closed is logged, and the next one is closed nevertheless.
        """
        runtime = self._runtime
        timeout = runtime.config.close_timeout
        steps: tuple[tuple[str, Callable[[], Any]], ...] = (
            ("giving up the files that open", self._give_up_opening),
            ("closing the evidence log", lambda: close_evidence(runtime, self.evidence, timeout)),
            ("closing the store", lambda: self._free_store(timeout)),
        )
        await run_steps(steps, runtime.log)

    async def _give_up_opening(self) -> None:
        if not await self._opener.give_up():
            text = "the disk does not answer; a file that was being opened is closed when it does"
            self._runtime.log.warning(text, extra=fields("disk silent"))

    async def _free_store(self, timeout: float) -> bool:
        if self.store is None:
            return False
        closing = in_own_thread(self.store.store.close, timeout)
        is_cancelled = await wait_uncancelled(closing)
        if not closing.result():
            self._warn_of_silent_disk()
        return is_cancelled

    def _warn_of_silent_disk(self) -> None:
        extra = fields("disk silent", path=self._runtime.config.store)
        text = (
            "the disk does not answer, so the last messages may not be stored; the thread of "
            "the store ends when the disk answers"
        )
        self._runtime.log.warning(text, extra=extra)


def _left_for_a_disk(deadline: float) -> float:
    return max(_LEAST_FOR_A_DISK, deadline - asyncio.get_running_loop().time())
