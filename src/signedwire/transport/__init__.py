"""Links between nodes: who is connected to whom, and what goes over it.

    send ─→ Outgoing ─→ Peer ──→ LinkDialer ─→ Link ═══ TLS ═══ Link ─→ Inflow ─→ Inbox
                     (queue and  (dials)     (one socket, both ways)  (marks, credit)
                      numbers)   Outbound ─→ OutboundLink ══ v1 ══ InboundLink ─→ Screen ─→ Inbox

- `core.Core` owns all of it and lives in one event loop: `outgoing`, `links`,
  `incoming` are its three parts.
- `outgoing`, `peer`: a `Peer` is a queue for one DID, and the way to it.
- `dialer`: attempts, pauses and places, whatever the wire. `link_dialer` is the way
  to one DID over v2; `outbound` the one v1 connection to an address, for all who are
  reached there. A dead address delays nobody but its peers.
- `link`: a v2 link, one `wire.session.Session` over `tls` over one socket, whoever
  dialed; `links` keeps one to each peer; `inflow` is what outlives links on the
  receiving side: marks, credit, answers.
- `incoming`, `doorway`: every accepted connection stands at the door until its first
  byte tells its wire. `inbound`: v1 connections, their deadlines, the order of checks.
- `shares`: which link may process its input in which turn of the loop. `link_input`,
  `link_socket`, `receipt_delay`: what waits on either side of a link.
- `drops`: counts what is dropped, and tells it in few events and log lines.
- `evidence`: the evidence log, which has what was accepted before anybody is told of it.
- `outbox`: between the store and the queues: what waits on the disk, and its rows' life.
- `clock_watch`: notices that the wall clock was set, or the machine suspended.
- `places`: outbound connections are counted, and given up for who waits for one.
- `accepting`, `descriptors`: accepted sockets, and what there is room for in the process.
- `pool`, `admission`, `access`: pure decisions. Who may hold an outbound connection;
  which inbound one is let in; which DIDs are turned away.
- `network`: what carries the bytes, as an interface; `tcp`, `unix` and `memory` implement it,
  the first two over `asyncio_stream`; `networks` takes the one that is configured. `names`
  looks hosts up, each in a thread of its own; `racing` connects to the first address of
  a host that answers.
- `outlast`: waits that go on although their caller is cancelled, so that a start or an
  end that is called off lets go of everything.
- `blocking`: `TcpTransport` and `MemoryTransport`, the same core for threads.

v1 connections carry one direction: the accepting side never writes. So their dialer
watches for the peer's close, which is the only thing that can arrive, and asks the
kernel once more right before each write.
"""
