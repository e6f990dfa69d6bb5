"""Links between nodes: who is connected to whom, and what goes over it.

    send ─→ Peer ─→ Outbound ─→ OutboundLink ═══ bytes ═══ InboundLink ─→ Screen ─→ Inbox
            (queue)  (dials,     (one socket)               (one socket)
                     writes)

- `core.Core` owns all of it and lives in one event loop. It does no I/O itself.
- `outbound`: a `Peer` is a queue for one DID; an `Outbound` is the one
  connection to an address and the worker that dials, writes and retries. A dead
  address delays nobody but the peers at that address.
- `inbound`: accepted connections, their deadlines, and the order of checks.
- `pool`, `admission`: pure decisions. Who may hold an outbound connection, who
  must give one up; which inbound connection is let in.
- `carrier`: the seam to the operating system. `tcp` and `memory` implement it.
- `blocking`: `TcpTransport` and `MemoryTransport`, the same core for threads.

Connections carry one direction, as v1 has it: the accepting side never writes.
So the dialer watches for the peer's close, which is the only thing that can
arrive, and asks the kernel once more right before each write.
"""
