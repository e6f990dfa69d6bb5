"""A seeded mutator, for machines without atheris and for the smoke test."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from .target import Target

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x16, 0x20, 0x22, 0x3A, 0x40, 0x5B, 0x5D, 0xC3)


class CrashError(Exception):
    """An input let something out that is not documented."""

    def __init__(self, data: bytes, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.data = data


class Mutator:
    """Endless inputs from a few good ones; the same seed gives the same inputs."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._draw = random.Random(seed)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._target.seeds
        while True:
            data = bytearray(self._draw.choice(self._target.seeds))
            # Mostly little: what is nearly right gets furthest.
            for _ in range(self._draw.choice((1, 1, 1, 2, 2, 3, 5, 10))):
                self._change(data)
            yield bytes(data[: self._target.max_size])

    def _change(self, data: bytearray) -> None:
        draw = self._draw
        start = draw.randrange(len(data) + 1)
        stop = min(len(data), start + draw.choice((0, 1, 1, 2, 4, 8, 32, 200)))
        match draw.randrange(8):
            case 0 if data:
                data[start % len(data)] ^= 1 << draw.randrange(8)
            case 1 if data:
                data[start % len(data)] = draw.choice(_INTERESTING)
            case 2:
                data[start:stop] = draw.randbytes(stop - start)
            case 3:
                del data[start:stop]
            case 4:
                data[start:start] = data[start:stop] * draw.randrange(1, 4)
            case 5:
                other = draw.choice(self._target.seeds)
                place = draw.randrange(len(other) + 1)
                data[start:] = other[place:]
            case 6 if self._target.words:
                data[start:stop] = draw.choice(self._target.words)
            case _:
                data[start:start] = draw.randbytes(draw.choice((1, 1, 2, 4, 9)))


def run_randomly(target: Target, seed: int, seconds: float) -> int:
    """Feed `target` for `seconds`; returns how many inputs it had.

    Raises:
        CrashError: with the input that let something out.
    """
    deadline = time.monotonic() + seconds
    count = 0
    for data in Mutator(target, seed):
        try:
            target.run(data)
        except KeyboardInterrupt:
            raise
        # Everything, also what is no Exception, such as a panic in Rust.
        except BaseException as error:
            raise CrashError(data, error) from error
        count += 1
        if count >= len(target.seeds) and time.monotonic() >= deadline:
            break
    return count
