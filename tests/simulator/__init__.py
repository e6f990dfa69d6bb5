"""Several whole nodes on one event loop in virtual time, with seeded faults. The main test.

`loop` is an asyncio loop in which time jumps; `network` carries bytes as TCP does, with its
misfortunes; `world` has the machines, their clocks and nodes, and checks what must hold;
`scenario` draws nodes, workload and faults from a seed; `disk` is a store whose commits take
virtual time, fail, and are cut short by crashes. `python -m tests.simulator` runs campaigns,
with `--clocks` those in which the clocks of machines and loops go apart, with
`--stores` those in which a share of the nodes has a store that outlives its lives.

The same seed gives the same trace, byte for byte, so every failure can be replayed. Each
run ends in peace: then everything that can be delivered must be, in bounded time, and every
node must close in time and leave nothing behind.

Not simulated: CPU time (callbacks take none), uvloop, threads (checks run inline and answer
late), the TCP network, keepalive, loss of acknowledgements alone, IPv6, stalls of the loop.
"""
