"""Decisions about messages between the application and a link, without sockets.

- `endpoint`: decisions across peers. `submitter`: the way of a message into the queue of its
  peer. `session_map`: one `PeerSession` for each DID, and which of them are kept.
- `peer_session`: the state of one peer that outlives its links, and the choice between two
  links. `peer_sender`, `peer_receiver`: the two halves of a session. `session_context`: the
  parts that all sessions share.
- `recv_window`: the credit of a peer. `answer_queue`: the application's answers, until a link
  takes them.
- `ports`: interfaces to everything else. `null_store`: the store of a node without a file.
- `access`, `denials`: denied DIDs, and the end of their messages.
- `lanes`: the queue to a peer, with one lane per priority and slots reserved for Critical.
  `bounded_queue`: limits of a queue.
- `message`: a message in the sending and in the receiving application.
- `inbox`: received messages that the application has not taken yet. `fair_lanes`: the turns
  of their senders. `known_senders`: senders that come before strangers. `inbox_budget`: the
  bytes of all waiting messages.
- `streams`, `receive_stream`: ordered exactly-once delivery across v2 links: numbers, marks,
  and messages in flight.
- `receipt`: the states of a sent message, and its end.
- `backoff`: pauses before the next attempt.
- `bounded_memory`: a map and a set that forget their oldest keys.
"""
