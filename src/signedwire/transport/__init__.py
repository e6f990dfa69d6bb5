"""Drivers: sockets, TLS, timers and threads around the decisions of `delivery`.

    send ─→ Endpoint ─→ PeerSender ──→ Link ═══ TLS ═══ Link ─→ PeerReceiver ─→ Inbox
                            └→ Dialers (dials)            ↑ Acceptor (accepts)

- `core.NodeCore` puts the parts of one node together and lives in one event loop.
  `runtime.Runtime` is what all of them work with: configuration, identity, loop, counters,
  events, log. It knows none of them.
- `dialers`, `dialer`, `link_dialer`: attempts and pauses. One dialer for each peer over v2,
  so a dead peer delays no other. `retry_pauses`: the time until the next attempt. `slots`:
  outbound connections are counted, and closed for a dialer that waits for one.
- `link`: the driver of a v2 link, one `wire.session.Session` over `tls` over one socket.
  `handshake`, `link_input`: its receiving side. `link_output`, `receipt_queue`,
  `receipt_delay`: its sending side. `link_socket`: its stream. `lingering`: links that have
  hung up and still send. `session_timer`, `answers`, `unsettled`: timers, and batches that
  wait for the disk.
- `tls`: the certificates, the contexts and the check of the proven DID. `tls_channel`: TLS over
  memory, without a socket. `probing`, `probe_connections`: probes, which send no message.
- `shares`: which link may process its input in which turn of the loop.
- `acceptor`: the listener and its connections. `inbound`: one of them, until it is proven or
  refused. `protocol_detector`: waits for the first byte, which tells the wire.
- `store_driver`, `row_loader`, `backlog_cursor`: what waits on the disk, and how it comes to
  be sent. `inbox_driver`: marks, and messages that are not handled yet.
- `inbox_reader`: how the application takes messages.
- `drops`: counts what is dropped, and reports it in few events and log lines.
- `evidence`: opens and closes the evidence log, which has what was accepted before anybody
  is told of it. `health`: whether the node can do its work.
- `clock_watch`: notices that the wall clock was set, or the machine suspended.
- `accepting`, `descriptors`: accepted sockets, and what there is room for in the process.
- `pool`, `admission`: pure decisions. Who may hold an outbound connection; which inbound
  one is let in.
- `network`: what carries the bytes, as an interface; `tcp`, `unix` and `memory` implement it,
  the first two over `asyncio_stream`; `networks` takes the one that is configured. `names`
  looks hosts up, each in a thread of its own; `racing` connects to the first address of
  a host that answers.
- `outlast`: waits that go on although their caller is cancelled, so that a start or an
  end that is called off lets go of everything.
- `blocking`: `TcpTransport` and `MemoryTransport`, the same core for threads.
- `v1`: the v1 wire.
"""
