"""Two nodes with stores that are killed at any moment, and what must be true all the same.

`actor` is one node in a process of its own. It says on stdout what it was told and what
it did; what it has said survives it. `ledger` holds both to their word. `pair` starts,
kills and restarts them; `__main__` is the campaign.
"""
