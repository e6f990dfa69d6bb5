"""A process that writes an evidence log until it is killed.

    python evidencechild.py FILE SEED [MAX_BYTES]

On stdout: `told COUNT HEAD` each time records are on the disk. With MAX_BYTES it rotates:
the count is that of the whole chain.
"""

from __future__ import annotations

import os
import random
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from linkkit import BOB, body, received
from signedwire.delivery.message import IncomingMessage
from signedwire.errors import StoreError
from signedwire.evidence.files import RotationPolicy
from signedwire.evidence.log import EvidenceLog
from storekit import Told


def main() -> None:
    path, seed, *sizes = sys.argv[1:]
    rng = random.Random(int(seed))
    rotation = RotationPolicy(max_bytes=int(sizes[0]) if sizes else None)
    log = EvidenceLog(path, BOB.did, rotation=rotation)
    number = log.head.records + log._file._records_before

    def say(count: int, error: StoreError | None) -> None:
        assert error is None
        if not sizes:
            count = log.head.records
        os.write(1, f"told {count} {log.head}\n".encode())

    fences: list[Told] = []
    while True:
        size = rng.choice((10, 1000, 300_000))
        count = rng.randrange(1, 9)
        batch = received([body(number + n, rng.randbytes(size)) for n in range(1, count + 1)])
        number += count
        log.append(
            [IncomingMessage(each, batch, n) for n, each in enumerate(batch.bodies)],
            partial(say, number),
        )
        fence = Told()
        log.append([], fence)
        fences.append(fence)
        if len(fences) > 4:
            fences.pop(0).wait()


if __name__ == "__main__":
    main()
