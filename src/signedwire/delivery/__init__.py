"""What happens to messages between the application and a link: decisions, without sockets.

- `endpoint`: all peers, and what is decided across them. `session_map`: one `PeerSession`
  for each DID, and which of them are kept.
- `peer_session`: everything about one peer that outlives its links, and which of its links
  is the one. `peer_sender`, `peer_receiver`: its two halves. `session_context`: what all
  sessions share.
- `ports`: what these decisions need of the outside, as protocols. `null_store`: the store of
  a node without a file.
- `access`, `denials`: which DIDs are turned away, and what becomes of their messages.
- `lanes`: the bounded queue with one lane per priority and slots reserved for
  Critical, before every peer. `bounded_queue`: its limits.
- `message`: a message as the sending and as the receiving application sees it.
- `inbox`: what has arrived and the application has not taken yet. `fair_lanes`: the turns
  that its senders take. `known_senders`: who comes before strangers. `inbox_budget`: how
  many bytes of it there may be.
- `streams`, `receive_stream`: order and once, across v2 links: numbers, marks, and what is
  in flight.
- `receipt`: the states of a sent message, and its end.
- `backoff`: how long to wait before the next attempt.
- `replay`: the bounded memory that delivers a repeated v1 envelope once.
"""
