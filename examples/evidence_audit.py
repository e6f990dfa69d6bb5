"""Prove afterwards, offline, who sent what and who accepted it.

There are two kinds of evidence: the receipt of the sender, and the evidence log of the
recipient, in which each record has a hash of the previous one.
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from signedwire import EnvelopeError, Identity, Node, SignatureError, verify_receipt


async def exchange(folder: Path) -> str:
    """Let Alice send three orders to Bob. Return the head of Bob's evidence log."""
    alice = Node(Identity.generate())
    bob = Node(Identity.generate(), evidence=folder / "bob.log")
    async with alice, bob:
        alice.routing.update(bob.did, bob.address)
        for number in (1, 2, 3):
            receipt = await alice.send(bob.did, b"order %d" % number)
            (folder / f"order-{number}.proof").write_bytes(receipt.proof())
            (await bob.receive(timeout=10)).ack()
        return str(bob.evidence_head())


def verify_log(log: Path, head: str) -> int:
    """Let the command line check the log. Return its exit code, 0 if the whole log is valid."""
    command = [sys.executable, "-m", "signedwire", "evidence", "verify", str(log), "--head", head]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print("   ", done.stdout.strip().splitlines()[-1])
    return done.returncode


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head = asyncio.run(exchange(folder))
        print("Alice sent three orders. Both nodes are closed: from here on nobody is asked.")

        for path in sorted(folder.glob("*.proof")):
            proven = verify_receipt(path.read_bytes())
            order, to = proven.envelope.payload.decode(), proven.envelope.recipient
            print(f"The receipt proves that {to.short} accepted {order!r}.")

        print("Somebody changes the text of an order in a receipt:")
        forged = (folder / "order-2.proof").read_bytes().replace(b"order 2", b"order 9")
        try:
            verify_receipt(forged)
        except (EnvelopeError, SignatureError) as error:
            print(f"    refused: {error}")
        else:
            sys.exit("the forged receipt was accepted")

        print("Bob's evidence log, with the head that was written down:")
        assert verify_log(folder / "bob.log", head) == 0

        print("Somebody changes the text of an order in the log:")
        changed = (folder / "bob.log").read_bytes().replace(b"order 2", b"order 9")
        (folder / "bob.log").write_bytes(changed)
        assert verify_log(folder / "bob.log", head) == 1


if __name__ == "__main__":
    main()
