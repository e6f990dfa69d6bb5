"""A small part of the campaign of requests; `make requests` runs the whole."""

from __future__ import annotations

import random

from request_campaign import Campaign

from wirekit import on_asyncio


@on_asyncio
async def test_each_request_is_answered_once_or_told_why() -> None:
    campaign = Campaign(3000, random.SystemRandom().randrange(2**32))
    await campaign.run()
    assert campaign.outcomes["replied"] > 1500, (campaign.seed, campaign.outcomes)
