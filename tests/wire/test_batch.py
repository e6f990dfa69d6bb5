"""The batch tree: one tree for one list, one path for one place, and no forgery of either."""

from __future__ import annotations

import itertools
from hashlib import sha256

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from linkkit import ALICE, BOB, EVE, alone, body
from signedwire.errors import EnvelopeError, SignatureError
from signedwire.identity import Identity, Label, verify_digest, verify_labelled
from signedwire.types import did_text
from signedwire.wire.batch import (
    MAX_BATCH,
    batch_root,
    leaf_of,
    path_of,
    path_size,
    root_from_path,
)
from signedwire.wire.envelope import MerklePath, SignedEnvelope, sign_batch, verify_batch

SENDER = bytes(ALICE.did)
SIZES = (1, 2, 15, 16, 17, 31, 32, 33, 240, 241, 255, 256)
GROUP, ROOT, BATCH = b"signedwire/group/1\0", b"signedwire/tree/1\0", b"signedwire/batch/1\0"

counts = st.sampled_from(SIZES) | st.integers(1, MAX_BATCH)


def leaves_of(count: int, tag: bytes = b"") -> list[bytes]:
    return [leaf_of(tag + bytes((n % 256, n // 256))) for n in range(count)]


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int]:
    """A count and an index in it."""
    count = draw(counts)
    return count, draw(st.integers(0, count - 1))


def plain_root(sender: bytes, leaves: list[bytes]) -> bytes:
    """The tree of docs/protocol.md, implemented a second time."""
    groups = b""
    for start in range(0, len(leaves), 16):
        part = leaves[start : start + 16]
        groups += sha256(GROUP + bytes([len(part)]) + b"".join(part)).digest()
    return sha256(ROOT + sender + len(leaves).to_bytes(2, "little") + groups).digest()


class TestTree:
    @given(counts)
    def test_the_root_as_the_text_has_it(self, count: int) -> None:
        assert batch_root(SENDER, leaves_of(count)) == plain_root(SENDER, leaves_of(count))

    @pytest.mark.parametrize("kind", [bytes, memoryview])
    def test_a_leaf_is_the_hash_of_the_body(self, kind: type[bytes]) -> None:
        assert leaf_of(kind(body())) == sha256(body()).digest()

    @given(places())
    def test_every_path_leads_to_the_root(self, place: tuple[int, int]) -> None:
        count, index = place
        leaves = leaves_of(count)
        path = path_of(leaves, index)
        assert len(path) == path_size(index, count) * 32 <= 30 * 32
        assert root_from_path(SENDER, leaves[index], index, count, path) == batch_root(
            SENDER, leaves
        )

    @pytest.mark.parametrize(
        ("count", "index", "size"),
        [(1, 0, 0), (2, 1, 1), (16, 3, 15), (17, 3, 16), (17, 16, 1), (255, 254, 29), (256, 0, 30)],
    )
    def test_how_long_a_path_is(self, count: int, index: int, size: int) -> None:
        assert path_size(index, count) == size

    @pytest.mark.parametrize(
        ("index", "count"), [(0, 0), (1, 1), (-1, 1), (256, 256), (0, 257), (0, 65535), (3, 2)]
    )
    def test_a_place_that_is_none(self, index: int, count: int) -> None:
        with pytest.raises(SignatureError) as caught:
            path_size(index, count)
        assert str(caught.value) == f"bad Merkle path: index {index} in a batch of {count}"
        with pytest.raises(SignatureError):
            root_from_path(SENDER, bytes(32), index, count, b"")

    @given(places(), st.integers(-70, 70))
    def test_a_path_of_another_length(self, place: tuple[int, int], change: int) -> None:
        count, index = place
        leaves = leaves_of(count)
        path = path_of(leaves, index)
        other = (path + bytes(70))[: max(0, len(path) + change)]
        assume(len(other) != len(path))
        with pytest.raises(SignatureError) as caught:
            root_from_path(SENDER, leaves[index], index, count, other)
        assert str(caught.value) == (
            f"bad Merkle path: a path of {len(other)} bytes for index {index} of {count}"
        )


class TestRootsDiffer:
    """No envelope can be appended, left out, exchanged, regrouped or attributed to another DID."""

    @given(counts, st.data())
    def test_another_list(self, count: int, data: st.DataObject) -> None:
        leaves = leaves_of(count)
        root = batch_root(SENDER, leaves)
        at = data.draw(st.integers(0, count - 1))
        others = [[*leaves[:at], bytes(32), *leaves[at + 1 :]]]
        if count > 1:
            others.append(leaves[:at] + leaves[at + 1 :])
            others.append(leaves[1:] + leaves[:1])
        if count < MAX_BATCH:
            others.append([*leaves, bytes(32)])
            others.append([*leaves, leaves[-1]])
            others.append(leaves[:at] + leaves[at : at + 1] + leaves[at:])
        for other in others:
            assert batch_root(SENDER, other) != root

    @given(counts)
    def test_another_sender(self, count: int) -> None:
        leaves = leaves_of(count)
        assert batch_root(SENDER, leaves) != batch_root(bytes(BOB.did), leaves)

    def test_no_two_sizes_share_a_root(self) -> None:
        roots = {batch_root(SENDER, [bytes(32)] * count) for count in range(1, MAX_BATCH + 1)}
        assert len(roots) == MAX_BATCH


class TestPathForgeries:
    """`root_from_path` returns the signed root only for the true leaf at its true position."""

    @settings(deadline=None)
    @given(places(), places())
    def test_another_place(self, true: tuple[int, int], other: tuple[int, int]) -> None:
        assume(true != other)
        (count, index), (wrong_count, wrong_index) = true, other
        leaves = leaves_of(count)
        root, path = batch_root(SENDER, leaves), path_of(leaves, index)
        # Cut and fill the path, so that its length at least fits.
        size = path_size(wrong_index, wrong_count) * 32
        for fitting in ((path + bytes(size))[:size], (path * 31 + bytes(size))[:size]):
            assert root != root_from_path(SENDER, leaves[index], wrong_index, wrong_count, fitting)

    @given(places(), st.data())
    def test_a_changed_path(self, place: tuple[int, int], data: st.DataObject) -> None:
        count, index = place
        assume(count > 1)
        leaves = leaves_of(count)
        root, path = batch_root(SENDER, leaves), path_of(leaves, index)
        bit = data.draw(st.integers(0, len(path) * 8 - 1))
        flipped = bytearray(path)
        flipped[bit // 8] ^= 1 << bit % 8
        assert root != root_from_path(SENDER, leaves[index], index, count, bytes(flipped))
        nodes = [path[at : at + 32] for at in range(0, len(path), 32)]
        if len(nodes) > 1:
            at = data.draw(st.integers(0, len(nodes) - 2))
            nodes[at], nodes[at + 1] = nodes[at + 1], nodes[at]
            assert root != root_from_path(SENDER, leaves[index], index, count, b"".join(nodes))

    @given(places(), st.sampled_from([BOB, EVE]))
    def test_another_sender(self, place: tuple[int, int], other: Identity) -> None:
        count, index = place
        leaves = leaves_of(count)
        assert root_from_path(
            bytes(other.did), leaves[index], index, count, path_of(leaves, index)
        ) != batch_root(SENDER, leaves)

    @given(st.integers(2, 16), st.data())
    def test_a_node_of_another_level(self, groups: int, data: st.DataObject) -> None:
        """A group's hash or a root, given as a leaf; a leaf, given as a group's hash."""
        count = groups * 16
        leaves = leaves_of(count)
        root = batch_root(SENDER, leaves)
        hashes = [
            sha256(GROUP + b"\x10" + b"".join(leaves[at : at + 16])).digest()
            for at in range(0, count, 16)
        ]
        number = data.draw(st.integers(0, groups - 1))
        others = b"".join(h for n, h in enumerate(hashes) if n != number)
        # A batch of as many as there are groups has the groups' hashes for leaves.
        assert batch_root(SENDER, hashes) != root
        assert root_from_path(SENDER, hashes[number], number, groups, others) != root
        # The same shape as the true path, with the group's hash in place of its leaf.
        index = number * 16 + data.draw(st.integers(0, 15))
        path = path_of(leaves, index)
        assert root_from_path(SENDER, hashes[number], index, count, path) != root
        # A root as the only leaf of its own batch.
        assert batch_root(SENDER, [root]) != root
        assert root_from_path(SENDER, root, 0, 1, b"") != root


class TestSecondPreimages:
    """A leaf has no label, so a body can hash to a group's hash. No attack follows from that.

    Twice: such a body does not begin as an envelope does, and the levels above have labels.
    """

    @given(counts)
    @example(1)
    @example(16)
    def test_a_body_that_is_the_text_of_a_group_is_no_envelope(self, count: int) -> None:
        leaves = leaves_of(count)
        group = GROUP + bytes([min(count, 16)]) + b"".join(leaves[:16])
        root = ROOT + SENDER + count.to_bytes(2, "little")
        for content in (group, root + sha256(group).digest(), BATCH + bytes(32) * 8):
            proof = MerklePath(0, 1, bytes(64)).encode()
            with pytest.raises(EnvelopeError):
                SignedEnvelope.decode(content + bytes(122) + proof)
            with pytest.raises(EnvelopeError):
                SignedEnvelope.decode(content + proof)

    def test_a_body_that_hashes_to_a_group_has_no_place_in_its_batch(self) -> None:
        leaves = [leaf_of(body(n)) for n in range(1, 33)]
        group = GROUP + b"\x10" + b"".join(leaves[:16])
        assert leaf_of(group) == sha256(group).digest()
        two = batch_root(SENDER, leaves)
        # As a leaf it stands in a group of its own.
        other = sha256(GROUP + b"\x10" + b"".join(leaves[16:])).digest()
        assert root_from_path(SENDER, leaf_of(group), 0, 2, other) != two

    @given(st.binary(max_size=200))
    def test_a_payload_can_hold_anything(self, tail: bytes) -> None:
        """The text of a group inside a payload is hashed behind a header."""
        leaves = leaves_of(16)
        payload = GROUP + b"\x10" + b"".join(leaves) + tail
        assert leaf_of(body(1, payload)) != leaf_of(payload)
        alone([body(1, payload)]).verify()


class TestSignatures:
    """A signature for one purpose is invalid for every other purpose."""

    BODIES = tuple(body(n) for n in range(1, 4))

    def test_a_batch_is_verified_whole(self) -> None:
        bodies = list(self.BODIES)
        root, signature, leaves = sign_batch(ALICE, bodies)
        assert verify_batch(SENDER, bodies, signature) == (root, leaves)
        assert verify_labelled(SENDER, Label.BATCH, root, signature)
        assert sign_batch(ALICE, bodies) == (root, signature, leaves)

    @given(st.data())
    def test_no_other_batch_has_its_signature(self, data: st.DataObject) -> None:
        bodies = list(self.BODIES)
        _, signature, _ = sign_batch(ALICE, bodies)
        others = [
            *(list(some) for n in range(1, 4) for some in itertools.permutations(bodies, n)),
            [*bodies, bodies[0]],
            [*bodies, body(4)],
            [b"".join(bodies)],
            [bodies[0] + bodies[1][:1], bodies[1][1:], bodies[2]],
        ]
        other = data.draw(st.sampled_from(others))
        assume(other != bodies)
        with pytest.raises(SignatureError) as caught:
            verify_batch(SENDER, other, signature)
        assert str(caught.value) == (
            f"bad signature: the batch of {len(other)} is not what {did_text(SENDER)} signed"
        )

    @pytest.mark.parametrize("label", [label for label in Label if label is not Label.BATCH])
    def test_a_signature_under_another_label(self, label: Label) -> None:
        bodies = list(self.BODIES)
        root, _, leaves = sign_batch(ALICE, bodies)
        signature = ALICE._sign_labelled(label, root)
        with pytest.raises(SignatureError):
            verify_batch(SENDER, bodies, signature)
        with pytest.raises(SignatureError):
            SignedEnvelope(bodies[0], MerklePath(0, 3, signature, leaves=leaves)).verify()

    @pytest.mark.parametrize("level", ["leaf", "root"])
    def test_a_v1_signature_as_that_of_a_batch(self, level: str) -> None:
        """v1 signs a bare digest of 32 bytes, which could also be a root."""
        bodies = [body()]
        root, _, leaves = sign_batch(ALICE, bodies)
        signature = ALICE._sign_digest(leaves[0] if level == "leaf" else root)
        with pytest.raises(SignatureError):
            verify_batch(SENDER, bodies, signature)
        with pytest.raises(SignatureError):
            SignedEnvelope(bodies[0], MerklePath(0, 1, signature, leaves=leaves)).verify()

    def test_the_signature_of_a_batch_as_a_v1_signature(self) -> None:
        bodies = [body()]
        root, signature, leaves = sign_batch(ALICE, bodies)
        assert not verify_digest(SENDER, leaves[0], signature)
        assert not verify_digest(SENDER, root, signature)
        with pytest.raises(SignatureError):
            SignedEnvelope(bodies[0], signature).verify()
        # A v1 frame may name any version, also 8: then the same bytes are a v1 envelope.
        with pytest.raises(SignatureError):
            SignedEnvelope.decode_v1(bodies[0] + signature).verify()

    @pytest.mark.parametrize("signer", [BOB, EVE])
    def test_somebody_elses_signature(self, signer: Identity) -> None:
        bodies = list(self.BODIES)
        _, signature, leaves = sign_batch(signer, bodies)
        with pytest.raises(SignatureError):
            verify_batch(SENDER, bodies, signature)
        root = batch_root(SENDER, leaves)
        with pytest.raises(SignatureError):
            verify_batch(SENDER, bodies, signer._sign_labelled(Label.BATCH, root))
