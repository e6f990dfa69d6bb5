"""The parts of a v1 receiver alone: the frames that wait, and the deadline of a partial frame."""

from __future__ import annotations

import asyncio

import pytest

from signedwire.transport.v1.frame_queue import FrameQueue
from signedwire.transport.v1.frame_timer import FrameTimer
from wirekit import on_asyncio

KIB = 1024
TIMEOUT = 0.4


@pytest.mark.parametrize(
    ("waiting", "threads", "size"),
    [(1, 4, 1), (8, 4, 8), (20, 4, 8), (40, 4, 10), (100, 2, 32), (1000, 4, 32)],
)
def test_a_slice_has_8_to_32_frames(waiting: int, threads: int, size: int) -> None:
    queue = FrameQueue()
    queue.extend([bytes([number % 256]) for number in range(waiting)])
    assert queue.take_slice(threads) == [bytes([number]) for number in range(size)]
    assert len(queue) == waiting - size


def test_a_queue_is_full_over_256_kib_and_low_under_128() -> None:
    queue = FrameQueue()
    queue.extend([bytes(128 * KIB), bytes(127 * KIB), bytes(KIB)])
    assert (queue.is_full, queue.is_low) == (False, False)
    queue.extend([b"x"])
    assert queue.is_full
    queue.take()
    assert (queue.is_full, queue.is_low) == (False, False)
    queue.take_slice(1)
    assert (len(queue), queue.is_low) == (0, True)
    queue.extend([bytes(512 * KIB)])
    queue.clear()
    assert (len(queue), queue.is_full) == (0, False)


# Each call of `watch()` is (is_partial, is_new); after the first there is half a timeout of pause.
@pytest.mark.parametrize(
    ("calls", "late"),
    [
        ([(True, True), (True, False)], 0.5),  # more bytes of a frame gain no time
        ([(True, True), (True, True)], 1.0),
        ([(True, False), (True, False)], 0.5),
        ([(True, True), (False, False)], None),
        ([(True, True), (False, False), (True, False)], 1.0),
    ],
)
@on_asyncio
async def test_the_time_of_a_frame_counts_from_its_first_byte(
    calls: list[tuple[bool, bool]], late: float | None
) -> None:
    loop, fired = asyncio.get_running_loop(), []
    timer = FrameTimer(TIMEOUT, lambda: fired.append(loop.time()))
    first, *rest = calls
    timer.watch(is_partial=first[0], is_new=first[1])
    await asyncio.sleep(TIMEOUT / 2)
    since = loop.time()
    for is_partial, is_new in rest:
        timer.watch(is_partial=is_partial, is_new=is_new)
    await asyncio.sleep(3 * TIMEOUT)
    assert len(fired) == (late is not None)
    if late is not None:
        is_early = fired[0] - since < 0.75 * TIMEOUT
        assert is_early == (late < 0.75)


@on_asyncio
async def test_without_a_timeout_a_frame_has_any_time() -> None:
    timer = FrameTimer(None, lambda: pytest.fail("a frame was late"))
    timer.watch(is_partial=True, is_new=True)
    await asyncio.sleep(TIMEOUT)
    timer.cancel()
