"""Drivers: sockets, TLS, timers and threads around the decisions of `delivery`.

    send ─→ Endpoint ─→ PeerSender ──→ Link ═══ TLS ═══ Link ─→ PeerReceiver ─→ Inbox
                            └→ Dialers (dials)            ↑ Acceptor (accepts)

- `core.NodeCore` puts the parts of one node together and lives in one event loop. `node_files`
  opens and closes its store, access file and evidence log. `starting`: a start that may be called
  off; `ending`: whether all parts have ended, also after the loop was closed.
  `runtime.Runtime` has what all parts use: configuration, identity, loop, counters, events,
  log. It imports none of them.
- `dialers`, `dialer`, `link_dialer`: who is dialed, and when. Each v2 peer has a dialer of its own,
  so a dead peer delays no other. `dial_attempt`: one attempt. `retry_pause`: the wait between
  two. What they decide is in `delivery.dial_history`. `slots`: the slots for outbound connections,
  and which dialer must give one up.
- `link`: a v2 link, one `wire.session.Session` over TLS over one socket, dialed or accepted.
  `link_state` has its session and its state. `link_input` reads (`handshake` first), `link_output`
  writes (`receipt_queue`, `receipt_delay`), both over `link_socket`. `link_events` handles what the
  session reports, and delays the end until received messages are stored. `link_end` ends the
  link and tells who needs to know. `answer_watch` and `session_timer` are its timers. `lingering`:
  links that were hung up. `link_ports`: the interfaces between the parts of a link and its owners.
  `link_errors`, `os_errors`: texts and kinds of failures. `copies` signs for several links at once.
- `tls` makes the contexts, `certificates` makes and checks what proves a DID in them,
  `tls_channel` encrypts and decrypts.
- `probing`: probes of peers. `probe_connection`: one connection of a probe; `link_probe`: one that
  speaks v2.
- `shares`: which link may process its input in which turn of the loop. `room_wait`: the wait of a
  stranger's link for room for its unfinished batches.
- `acceptor`: the listener, and which connections may stay. `inbound`: one accepted connection.
  `protocol_detector` waits for its first byte, which shows its wire.
- `store_driver` stores outgoing messages, `backlog_loader` loads them into the queues,
  `expiry_timer` has those removed whose deadlines have passed.
- `inbox_driver`: marks, and messages that are not handled yet.
- `inbox_reader`: how the application takes messages.
- `drops`: counts what is dropped, and reports it in few events and log lines.
- `evidence_driver`: opens and closes the evidence log. A message is in the log before the
  application gets it and the sender gets its receipt. `health`: problems of store and log.
- `clock_watch`: detects that the wall clock was set, or the machine suspended.
- `accepting`, `descriptors`: accepted sockets, and what there is room for in the process.
- `pool`, `admission`: pure decisions. Who may hold an outbound connection; which inbound
  one is let in.
- `network`: what carries the bytes, as an interface; `tcp`, `unix` and `memory` implement it.
  Streams are in `asyncio_stream`, `tcp_stream` and `memory_stream`. `networks` takes the network
  that is configured. `guarded_stream` ends a stream of another backend that raises. `names` looks
  hosts up, each in a thread of its own; `socket_addresses`: what it finds, and what counts as one
  host. `racing` connects to the first address of a host that answers.
- `uncancelled`: waits that cancelling does not cut short, so that a start or an end that is
  cancelled releases everything. `own_thread`: threads for calls that block. `connecting`:
  connects within limits of time.
- `blocking`: `TcpTransport` and `MemoryTransport`, the same core for threads.
- `v1`: the v1 wire. `optional_v1` makes it, if it is installed.
"""
