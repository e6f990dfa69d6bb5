"""Copies: what they are on the wire, what a proof of one reveals, and what is no copy."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodykit import encode_v2_body
from linkkit import (
    ALICE,
    BOB,
    EVE,
    PLENTY,
    batches_of,
    body,
    events_of,
    exchange,
    frames_of,
    hello,
    open_pair,
    session,
    with_credit,
)
from signedwire.errors import RemoteProtocolError, SignatureError
from signedwire.identity import Identity, Label
from signedwire.types import Credit, Priority, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import MAX_BATCH, batch_root, leaf_of, leaves_of, path_of
from signedwire.wire.copies import (
    Copies,
    encode_item,
    largest_overhead,
    split_items,
    verify_received,
)
from signedwire.wire.envelope import MerklePath, SignedEnvelope
from signedwire.wire.link_frames import COPIES, FIRST, LAST, Part
from signedwire.wire.parts import BatchWriter, IncomingBatches
from signedwire.wire.receipt_proof import encode_receipt_proof, verify_receipt
from signedwire.wire.sent_batch import SentCopies, sign_copies
from signedwire.wire.session import BatchFailed, BatchReceived, Closed, Session

SENDER = bytes(ALICE.did)
OTHERS = tuple(Identity.from_seed(bytes([n]) * 32) for n in range(40, 44))


def share(
    count: int,
    recipient: Identity = BOB,
    payload: bytes = b"hello",
    priority: int = Priority.NORMAL,
) -> list[bytes]:
    """The first `count` bodies for a recipient."""
    return [body(n, payload, recipient=recipient, priority=priority) for n in range(1, count + 1)]


def tree_of(*counts: int) -> tuple[list[list[bytes]], list[SentCopies]]:
    """The shares of so many bodies: the first for Bob, the others for others."""
    shares = [share(n, who) for n, who in zip(counts, (BOB, *OTHERS), strict=False)]
    return shares, sign_copies(ALICE, shares)


def bytes_of(copies: SentCopies, bodies: list[bytes]) -> bytes:
    """The frames of copies."""
    return frames_of_items(copies.signature, copies.items(bodies), bodies[0][104])


def frames_of_items(signature: bytes, items: list[bytes], stream: int = 1) -> bytes:
    writer = BatchWriter(signature, items, stream, is_copies=True)
    pieces = []
    while not writer.is_done:
        pieces += writer.next_part()
    return b"".join(pieces)


shapes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


class TestSigning:
    @given(shapes)
    def test_each_share_has_paths_to_the_one_root(self, counts: list[int]) -> None:
        shares, signed = tree_of(*counts)
        leaves = leaves_of([one for each in shares for one in each])
        for bodies, copies in zip(shares, signed, strict=True):
            assert copies.root == batch_root(SENDER, leaves)
            assert copies.leaves == leaves_of(bodies)
            for at, one in enumerate(bodies):
                alone = SignedEnvelope(one, copies.path(at)).encode()
                SignedEnvelope.decode(alone).verify()
                assert copies.path(at).hashes == path_of(leaves, copies.first + at)

    def test_all_have_one_signature_and_names_of_their_own(self) -> None:
        _, signed = tree_of(2, 1, 3)
        assert len({copies.signature for copies in signed}) == 1
        assert len({copies.name for copies in signed}) == 3
        # A receipt names 32 bytes.
        assert all(len(copies.name) != 32 for copies in signed)
        assert all(copies.tree is signed[0].tree for copies in signed)

    def test_the_largest_tree(self) -> None:
        shares, signed = sign_largest()
        assert sum(map(len, shares)) == MAX_BATCH
        assert max(len(copies.path(0).hashes) for copies in signed) == 30 * 32
        assert largest_overhead(MAX_BATCH) == 962

    @pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 31, 32, 33, 255, 256])
    def test_the_largest_overhead(self, count: int) -> None:
        leaves = [bytes([n]) * 32 for n in range(count)]
        sizes = [
            len(encode_item(MerklePath(n, count, bytes(64), leaves=leaves), b""))
            for n in range(count)
        ]
        assert largest_overhead(count) == max(sizes)


def sign_largest() -> tuple[list[list[bytes]], list[SentCopies]]:
    """A tree of 256 envelopes for four recipients."""
    shares = [share(64, who, bytes(100)) for who in (BOB, *OTHERS[:3])]
    return shares, sign_copies(ALICE, shares)


class TestItems:
    @given(shapes, st.data())
    def test_they_are_read_as_they_were_written(
        self, counts: list[int], data: st.DataObject
    ) -> None:
        shares, signed = tree_of(*counts)
        which = data.draw(st.integers(0, len(shares) - 1))
        bodies, copies = shares[which], signed[which]
        found, places = split_items(copies.items(bodies))
        assert found == bodies
        assert places.count == sum(counts)
        assert [index for index, _ in places.places] == [
            copies.first + at for at in range(len(bodies))
        ]
        assert places.overhead == sum(map(len, copies.items(bodies))) - sum(map(len, bodies))
        root, leaves = verify_received(SENDER, found, copies.signature, places)
        assert (root, leaves) == (copies.root, copies.leaves)
        # A recipient may also get some of its copies, and the others later, alone.
        some = sorted(data.draw(st.sets(st.sampled_from(range(len(bodies))), min_size=1)))
        items = [copies.items(bodies)[at] for at in some]
        found, places = split_items(items)
        verify_received(SENDER, found, copies.signature, places)

    @given(shapes)
    def test_the_places_in_a_store(self, counts: list[int]) -> None:
        shares, signed = tree_of(*counts)
        for bodies, copies in zip(shares, signed, strict=True):
            _, places = split_items(copies.items(bodies))
            assert Copies.decode(places.encode()) == places

    @given(st.binary(max_size=100), st.integers(0, 400))
    def test_other_places_in_a_store(self, data: bytes, size: int) -> None:
        for raw in (data, data + bytes(size)):
            try:
                places = Copies.decode(raw)
            except ValueError:
                continue
            assert places.encode() == raw

    @pytest.mark.parametrize(
        ("count", "index", "size"),
        [(count, index, size) for count, index, size in [(3, 1, 66), (17, 16, 34), (256, 5, 962)]],
    )
    def test_the_layout(self, count: int, index: int, size: int) -> None:
        shares = [share(index), share(1, OTHERS[0]), share(count - index - 1, OTHERS[1])]
        shares = [each for each in shares if each]
        copies = next(one for one in sign_copies(ALICE, shares) if one.first == index)
        (item,) = copies.items(share(1, OTHERS[0]))
        leaves = leaves_of([one for each in shares for one in each])
        assert item == (bytes([index, count - 1]) + path_of(leaves, index) + share(1, OTHERS[0])[0])
        assert len(item) == size + len(share(1)[0])


class TestParts:
    @pytest.mark.parametrize("priority", list(Priority))
    def test_one_frame(self, priority: Priority) -> None:
        shares = [share(2, priority=priority), share(1, OTHERS[0])]
        copies = sign_copies(ALICE, shares)[0]
        (part,) = frames_of(bytes_of(copies, shares[0]))
        assert isinstance(part, Part)
        assert (part.flags, part.stream, part.count) == (FIRST | LAST | COPIES, priority, 2)
        items = copies.items(shares[0])
        assert part.total == sum(map(len, items))
        assert bytes(part.data) == copies.signature + b"".join(
            len(item).to_bytes(4, "little") + item for item in items
        )

    def test_a_large_one_has_the_flag_in_its_first_part_alone(self) -> None:
        shares, signed = sign_largest()
        data = bytes_of(signed[1], shares[1])
        parts = [part for part in frames_of(data) if isinstance(part, Part)]
        assert len(parts) > 4
        assert [part.flags for part in parts] == [9, *[0] * (len(parts) - 2), LAST]
        assert all(len(part.encode()) <= frames.MAX_FRAME_SIZE for part in parts)
        ((signature, bodies, places),) = batches_of(data)
        assert places is not None
        assert bodies == shares[1]
        assert verify_received(SENDER, bodies, signature, places)[0] == signed[1].root

    def test_a_lone_copy_may_be_larger_than_a_batch(self) -> None:
        incoming = IncomingBatches(1024, 5000)
        largest = 5000 + 512 + 962
        fitting = Part(FIRST | COPIES, 1, bytes(3000), 1, largest)
        assert incoming.add(fitting, 0.0) is None
        for count, total in ((1, largest + 1), (2, 1025)):
            with pytest.raises(RemoteProtocolError):
                IncomingBatches(1024, 5000).add(
                    Part(FIRST | COPIES, 1, bytes(3000), count, total), 0.0
                )
        with pytest.raises(RemoteProtocolError):
            IncomingBatches(1024, 5000).add(Part(FIRST, 1, bytes(3000), 1, 5513), 0.0)


SHARES, SIGNED = tree_of(3, 20, 1)
ITEMS = SIGNED[0].items(SHARES[0])
HALF = 2 + len(SIGNED[0].path(0).hashes)


def changed(item: bytes, at: int, value: int) -> bytes:
    return item[:at] + bytes([value]) + item[at + 1 :]


MALFORMED: dict[str, tuple[list[bytes], str]] = {
    "an index that repeats": ([ITEMS[0], ITEMS[0]], "a copy of index 0 behind 0, in a tree of 24"),
    "indices that fall": ([ITEMS[1], ITEMS[0]], "a copy of index 0 behind 1, in a tree of 24"),
    "an index outside": ([changed(ITEMS[0], 0, 24)], "a copy of index 24 behind -1"),
    "different trees": (
        [ITEMS[0], changed(ITEMS[1], 1, 24)],
        "copies of different trees in one batch",
    ),
    "no room for the path": (
        [changed(ITEMS[0], 1, 255)[: HALF + 126]],
        f"a copy of {HALF + 126} bytes, with 962 before its header",
    ),
    "less than a header": (
        [ITEMS[0][: HALF + 125]],
        f"a copy of {HALF + 125} bytes, with {HALF} before its header",
    ),
    "less than any header": ([ITEMS[0][:125]], "an envelope of 125 bytes"),
    "another priority": (
        [changed(ITEMS[0], HALF + 104, 2)],
        "an envelope of stream 2 in stream 1",
    ),
}


class TestMalformed:
    @pytest.mark.parametrize("name", MALFORMED)
    def test_it_closes_the_link_with_code_1(self, name: str) -> None:
        items, fact = MALFORMED[name]
        _, bob = open_pair()
        bob.receive_data(frames_of_items(SIGNED[0].signature, items), 0.0)
        (closed,) = events_of(bob)
        assert isinstance(closed, Closed)
        assert closed.cause.startswith(f"the peer sent {fact}")
        assert (closed.code, closed.reason) == (frames.CLOSE_PROTOCOL_ERROR, Reason.PROTOCOL_ERROR)

    def test_the_flag_in_a_later_part(self) -> None:
        data = bytes(3000)
        with pytest.raises(RemoteProtocolError):
            frames.decode(frames.ENVELOPES, bytes([COPIES, 1]) + data)
        with pytest.raises(RemoteProtocolError):
            frames.decode(frames.ENVELOPES, bytes([COPIES | LAST, 1]) + data)

    def test_a_plain_batch_as_copies_and_the_reverse(self) -> None:
        """The flag alone says how a batch is read; the signature covers the bodies."""
        bodies = share(2)
        whole = frames_of_items(SIGNED[0].signature, bodies)
        _, bob = open_pair()
        bob.receive_data(whole, 0.0)
        (closed,) = events_of(bob)
        assert isinstance(closed, Closed)
        assert closed.code == frames.CLOSE_PROTOCOL_ERROR


def other_root(items: list[bytes]) -> list[bytes]:
    """Of two trees that Alice has signed."""
    shares = [share(3), share(20, OTHERS[1]), share(1, OTHERS[2])]
    return [items[0], sign_copies(ALICE, shares)[0].items(shares[0])[1]]


FORGED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a changed path": lambda items: [changed(items[0], 10, items[0][10] ^ 1), *items[1:]],
    "one changed path of three": lambda items: [*items[:2], changed(items[2], HALF - 1, 7)],
    "a changed payload": lambda items: [items[0][:-1] + b"!", *items[1:]],
    "swapped indices": lambda items: [
        items[1][:0] + items[0][:1] + items[1][1:],
        items[1][:1] + items[0][1:],
    ],
    "another index": lambda items: [changed(items[0], 0, 3)],
    "another count of the same shape": lambda items: [changed(items[0], 1, 24)],
    "two trees": other_root,
}


class TestForgery:
    @pytest.mark.parametrize("name", FORGED)
    def test_none_of_the_copies_is_proven(self, name: str) -> None:
        items = FORGED[name](list(ITEMS))
        _, bob = open_pair()
        bob.receive_data(frames_of_items(SIGNED[0].signature, items), 0.0)
        (failed,) = events_of(bob)
        assert isinstance(failed, BatchFailed)
        assert len(failed.bodies) == len(items)

    @given(st.data())
    def test_any_changed_byte_of_an_item(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(ITEMS[0]) - 1))
        item = changed(ITEMS[0], at, ITEMS[0][at] ^ data.draw(st.integers(1, 255)))
        try:
            bodies, copies = split_items([item])
        except RemoteProtocolError:
            return
        with pytest.raises(SignatureError):
            verify_received(SENDER, bodies, SIGNED[0].signature, copies)

    def test_somebody_elses_signature(self) -> None:
        bodies, copies = split_items(ITEMS)
        for signer in (BOB, EVE):
            with pytest.raises(SignatureError):
                verify_received(
                    SENDER,
                    bodies,
                    signer._sign_labelled(Label.BATCH, SIGNED[0].root),
                    copies,
                )
        with pytest.raises(SignatureError):
            verify_received(bytes(EVE.did), bodies, SIGNED[0].signature, copies)

    @pytest.mark.parametrize("label", [label for label in Label if label is not Label.BATCH])
    def test_a_signature_under_another_label(self, label: Label) -> None:
        bodies, copies = split_items(ITEMS)
        signature = ALICE._sign_labelled(label, SIGNED[0].root)
        with pytest.raises(SignatureError):
            verify_received(SENDER, bodies, signature, copies)

    def test_a_batch_of_all_is_no_copy_without_its_flag(self) -> None:
        """The share of one recipient, read as a whole batch, has another root."""
        with pytest.raises(SignatureError):
            verify_received(SENDER, SHARES[0], SIGNED[0].signature, None)


class TestWhatAProofReveals:
    def test_nothing_about_neighbours(self) -> None:
        """A guess of a neighbour's whole message does not fit its leaf: the id is random."""

        def secret(message_id: bytes) -> bytes:
            parties = bytes(ALICE.did) + bytes(OTHERS[0].did)
            return encode_v2_body(parties, b"yes", message_id, 1, 1, 1, 0, 9, 0)

        def tree(neighbour: bytes) -> bytes:
            mine = sign_copies(ALICE, [share(1), [neighbour]])[0]
            return SignedEnvelope(share(1)[0], mine.path(0)).encode()

        first, second = secret(os.urandom(16)), secret(os.urandom(16))
        assert tree(first) != tree(second)
        proof = tree(first)
        assert leaf_of(first) in proof
        assert leaf_of(secret(bytes(16))) not in proof
        for part in (bytes(OTHERS[0].did), b"yes", first[8:24]):
            assert part not in proof

    def test_a_receipt_proof(self) -> None:
        bodies, copies = SHARES[0], SIGNED[0]
        plain = frames.Receipts(2, 7, (copies.leaves[1],), code=1)
        text = bytes(BOB.did) + SENDER + plain.statement
        word = replace(plain, signature=BOB._sign_labelled(Label.RECEIPT, text)).proof
        proof = encode_receipt_proof(bodies[1], copies, 1, word)
        proven = verify_receipt(proof)
        assert proven.envelope.body == bodies[1]
        assert proven.is_committed
        for other in (SHARES[1], SHARES[2]):
            assert not any(one[32:] in proof for one in other)
        with pytest.raises(SignatureError):
            verify_receipt(encode_receipt_proof(bodies[0], copies, 0, word))


class TestSession:
    def test_what_arrives(self) -> None:
        alice, bob = open_pair()
        alice.send_copies(SIGNED[0], SHARES[0])
        exchange(alice, bob)
        (batch,) = events_of(bob)
        assert isinstance(batch, BatchReceived)
        assert batch.copies is not None
        assert (batch.bodies, batch.leaves) == (SHARES[0], SIGNED[0].leaves)
        assert (batch.root, batch.signature) == (SIGNED[0].root, SIGNED[0].signature)
        for at, one in enumerate(batch.bodies):
            path = batch.copies.path(at, batch.signature)
            SignedEnvelope.decode(SignedEnvelope(one, path).encode()).verify()

    def test_paths_count_as_credit(self) -> None:
        alice, bob = open_pair()
        size = sum(map(len, ITEMS))
        assert size > sum(map(len, SHARES[0]))
        alice.send_copies(SIGNED[0], SHARES[0])
        assert alice.credit_left(1) == PLENTY[1].minus(Credit(3, size))
        exchange(alice, bob)
        (batch,) = events_of(bob)
        assert isinstance(batch, BatchReceived)
        assert batch.size == size
        assert bob.peer_credit_left(1) == alice.credit_left(1)

    @pytest.mark.parametrize("lack", [0, 1])
    def test_a_receiver_charges_the_paths(self, lack: int) -> None:
        size = sum(map(len, ITEMS))
        bob = session(BOB, ALICE, credit=with_credit(PLENTY, 1, 3, size - lack))
        bob.receive_data(hello().encode() + bytes_of(SIGNED[0], SHARES[0]), 0.0)
        *_, last = events_of(bob)
        assert isinstance(last, Closed if lack else BatchReceived)

    def test_plain_batches_and_copies_on_one_link(self) -> None:
        alice, bob = open_pair()
        plain = [body(9, bytes(40_000), priority=Priority.LOW)]
        alice.send_batch(plain)
        first = alice.data_to_send(1)
        alice.send_copies(SIGNED[0], SHARES[0])
        alice.send_batch([body(10)])
        bob.receive_data(first + alice.data_to_send(), 0.0)
        batches = [event for event in events_of(bob) if isinstance(event, BatchReceived)]
        assert [batch.bodies for batch in batches] == [SHARES[0], [body(10)], plain]
        assert [batch.copies is not None for batch in batches] == [True, False, False]
        assert not bob.is_closed

    def test_one_tree_over_several_links(self) -> None:
        alices: list[Session] = []
        for who in (BOB, *OTHERS[:2]):
            ours, theirs = session(ALICE, who), session(who, ALICE)
            exchange(ours, theirs)
            events_of(theirs)
            alices.append(ours)
            at = len(alices) - 1
            ours.send_copies(SIGNED[at], SHARES[at])
            exchange(ours, theirs)
            (batch,) = events_of(theirs)
            assert isinstance(batch, BatchReceived)
            assert (batch.bodies, batch.root) == (SHARES[at], SIGNED[0].root)
