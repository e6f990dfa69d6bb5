"""Parts of a node that are built on messages: topics.

- `topics`: the publications and subscriptions of a node, and one payload for several peers.
- `outcomes`: `Outcomes`, the table of who has a message and who has not.
- `subscription`: `Subscription`, the publications of one subject for the application.
"""
