"""Many requests over cuts and restarts, with late and duplicate replies.

`python -m messaging.request_campaign --requests 100000`, in the folder tests/. Each request has its
own reply, or an error that tells why there is none, and no handler runs twice for one request.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from signedwire import (
    Address,
    DeliveryFailedError,
    Identity,
    Message,
    MessageRefusedError,
    Node,
    NoReplyError,
    PayloadType,
    Target,
    TransportConfig,
)
from signedwire.transport.memory import MemoryNetwork

__all__ = ["Campaign", "main"]

_ASKERS: Final = 64
"""Number of requests that wait at a time."""
_TIMEOUT: Final = 1.0
_FAST: Final[dict[str, Any]] = {
    "retry_base_delay": 0.005,
    "retry_max_delay": 0.05,
    "max_attempts": 1000,
    "close_timeout": 0.2,
}


@dataclass
class Campaign:
    """One run.

    Args:
        requests: Number of requests.
        seed: Of the draws; the schedule of the event loop still differs between runs.
    """

    requests: int
    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    """Number of requests by their outcome."""
    restarts: int = 0
    cuts: int = 0

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._network = MemoryNetwork(seed=self.seed)
        self._bob = Identity.generate()
        self._handled: Counter[bytes] = Counter()
        self._numbers = iter(range(self.requests))

    async def run(self) -> None:
        """Ask all requests, and check their outcomes."""
        config = TransportConfig(listen=None, **_FAST)
        async with Node(Identity.generate(), config, network=self._network) as alice:
            alice.routing.update(self._bob.did, Address("127.0.0.1", 9001))
            serving = asyncio.create_task(self._serve(Address("127.0.0.1", 9001)))
            cutting = asyncio.create_task(self._cut())
            try:
                await asyncio.gather(*[self._ask(alice) for _ in range(_ASKERS)])
            finally:
                serving.cancel()
                cutting.cancel()
                await asyncio.gather(serving, cutting, return_exceptions=True)
            assert not alice._core.context.requests, f"seed {self.seed}: requests are left open"
        twice = [payload for payload, count in self._handled.items() if count > 1]
        assert not twice, f"seed {self.seed}: handled twice: {twice[:5]}"
        refused = {name for name in self.outcomes if name.startswith("refused")}
        assert refused <= {"refused, drawn"}, (self.seed, self.outcomes)
        assert sum(self.outcomes.values()) == self.requests, (self.seed, self.outcomes)

    async def _ask(self, alice: Node) -> None:
        for number in self._numbers:
            payload = b"%d" % number
            try:
                reply = await alice.request(self._bob.did, payload, subject="x", timeout=_TIMEOUT)
            except NoReplyError as error:
                self.outcomes[f"no reply, {error.state}"] += 1
            except MessageRefusedError as error:
                self.outcomes[f"refused, {error.receipt.detail}"] += 1
            except DeliveryFailedError as error:
                self.outcomes[str(error.reason)] += 1
            else:
                assert reply.payload == b"re " + payload, (self.seed, payload, reply.payload)
                self.outcomes["replied"] += 1

    async def _serve(self, address: Target) -> None:
        """Run the peer, which restarts now and then without its state."""
        while True:
            config = TransportConfig(listen=str(address), **_FAST)
            async with Node(self._bob, config, network=self._network) as bob:
                bob.serve("x", lambda message: self._answer(bob, message), limit=_ASKERS)
                await asyncio.sleep(self._draw.uniform(0.2, 1.5))
            self.restarts += 1

    async def _answer(self, bob: Node, message: Message) -> bytes | None:
        self._handled[message.payload] += 1
        chance = self._draw.random()
        if chance < 0.002:
            await asyncio.sleep(_TIMEOUT * self._draw.uniform(0.8, 1.5))  # perhaps too late
        elif chance < 0.02:
            message.nack("refused", "drawn")
            return None
        elif chance < 0.04:  # a second reply, which must not count
            make = bob._requests.new_reply
            wrong = make(message, b"a second one", PayloadType.RAW)  # type: ignore[arg-type]
            message.reply(b"re " + message.payload)
            bob._core.endpoint.submitter.submit(wrong, wrong.payload_size)
            return None
        return b"re " + message.payload

    async def _cut(self) -> None:
        while True:
            await asyncio.sleep(self._draw.uniform(0.02, 0.4))
            self.cuts += self._network.cut_all() > 0


def main() -> int:
    """Run a campaign, and print its outcomes."""
    parser = argparse.ArgumentParser("python -m messaging.request_campaign", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    write = sys.stdout.write
    write(f"seed {options.seed}\n")
    campaign, began = Campaign(options.requests, options.seed), time.monotonic()
    asyncio.run(campaign.run())
    for outcome, count in campaign.outcomes.most_common():
        write(f"{count:8}  {outcome}\n")
    seconds = time.monotonic() - began
    write(f"{campaign.restarts} restarts, {campaign.cuts} cuts, {seconds:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
