"""A process that uses a store until it is killed, and prints each callback to stdout.

python storechild.py FILE load         put, settle, dead_letter, accept and acked, for ever
python storechild.py FILE until-error  put until something fails; SIZE limits the file
python storechild.py FILE crash COUNT  put 100 and settle them, COUNT times; put 100, and exit
python storechild.py FILE open SIZE    open it; SIZE limits the file
"""

from __future__ import annotations

import os
import random
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from linkkit import ALICE, BOB, body, received
from signedwire.delivery.store import Marks, SqliteStore
from signedwire.errors import StoreError
from signedwire.types import Reason
from storekit import PEER, US, Note, Told, told


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def said(word: str, numbers: list[int], error: StoreError | None) -> None:
    assert error is None
    say(word, *numbers)


def load(store: SqliteStore, rng: random.Random) -> None:
    """Keep operations in flight, so that a kill meets some in every state."""
    start = store.marks(PEER).lanes[1]
    fences: list[Told] = []
    while True:
        notes = [Note(rng.randbytes(rng.randrange(300))) for _ in range(rng.randrange(1, 20))]
        store.put(PEER, notes, on_commit=partial(put, store, rng, notes))
        count = rng.randrange(1, 10)
        bodies = [
            body(start + n, rng.randbytes(9), sender=BOB, recipient=ALICE)
            for n in range(1, count + 1)
        ]
        numbers = list(range(start + 1, start + count + 1))
        start += count
        marks = Marks(9, (0, start, 0, 0))
        ids: list[int] = []
        accepted = partial(accept, store, rng, numbers, ids)
        fence = Told()
        with store._lock:  # `accepted` needs the ids
            ids += store.accept(
                PEER, marks, received(bodies, BOB), range(count), on_commit=accepted
            )
        store.barrier(fence)
        fences.append(fence)
        if len(fences) > 4:
            fences.pop(0).wait()


def put(
    store: SqliteStore, rng: random.Random, notes: list[Note], error: StoreError | None
) -> None:
    numbers = [note.row for note in notes]
    said("put", numbers, error)
    some = [n for n in numbers if rng.random() < 0.8]
    names = [(1, n) for n in some]
    say("ask", *some)  # from now on the rows may be removed
    if rng.random() < 0.1:
        store.dead_letter(PEER, names, Reason.REFUSED, on_commit=partial(said, "dead", some))
    else:
        store.settled(PEER, names, on_commit=partial(said, "settled", some))


def accept(
    store: SqliteStore,
    rng: random.Random,
    numbers: list[int],
    ids: list[int],
    error: StoreError | None,
) -> None:
    said("accepted", numbers, error)
    with store._lock:
        known = dict(zip(ids, numbers, strict=True))
    some = [id_ for id_ in known if rng.random() < 0.8]
    say("finish", *[known[id_] for id_ in some])
    store.acked(some, on_commit=partial(said, "done", [known[id_] for id_ in some]))


def until_error(store: SqliteStore) -> None:
    stored = 0
    while True:
        on_commit = Told()
        try:
            store.put(PEER, [Note(b"x" * 500)], on_commit=on_commit)
        except StoreError as error:
            say("then", type(error).__name__, stored)
            say("health", store.stats().failure)
            return
        error_ = on_commit.wait()
        if error_ is None:
            stored += 1
            say("put", stored)
        else:
            say("first", type(error_).__name__, error_)


def crash(store: SqliteStore, count: int) -> None:
    for left in range(count, -1, -1):
        notes = [Note(b"x" * 64) for _ in range(100)]
        assert told(store.put, PEER, notes) is None
        names = [(1, note.row) for note in notes]
        assert not left or told(store.settled, PEER, names) is None
    os._exit(0)


def limit(size: str) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))


def main() -> None:
    path, mode, *rest = sys.argv[1:]
    if mode == "open":
        limit(*rest)
        SqliteStore(path, US)
    elif mode == "crash":
        crash(SqliteStore(path, US), int(rest[0]))
    elif mode == "load":
        load(SqliteStore(path, US), random.Random(int(rest[0])))
    else:
        store = SqliteStore(path, US)
        if rest:
            limit(*rest)
        until_error(store)
        store.close()


if __name__ == "__main__":
    main()
