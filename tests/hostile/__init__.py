"""The hostile-peer bench: an honest peer sends to a node that others attack.

`victim` is the node, `honest` the peer beside it, `attacker` one process with N hostile
links that repeats one thing as fast as it can. `bench` runs the three, measures, and
compares with the limits; `__main__` prints the table.
"""
