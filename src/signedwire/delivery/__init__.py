"""Decisions about messages between the application and a link, without sockets.

- `endpoint`: decisions across peers. `submitter`: the way of a message into the queue of its
  peer. `session_map`: one `PeerSession` for each DID, and which of them are kept.
- `peer_session`: the state of one peer that outlives its links, and the choice between two
  links. `peer_sender`, `peer_receiver`: the two halves of a session. `session_context`: the
  parts that all sessions share. `outcomes`: waiting for several messages at once.
- `recv_window`: the credit of a peer. `answer_queue`: the application's answers, until a link
  takes them. `stream_answers`: those about durable messages, or about volatile ones.
- `consumers`: which part takes a received message that is no plain one. `open_requests`: the
  requests that wait for a reply.
- `ports`: interfaces to everything else. `null_store`: the store of a node without a file.
- `store`: the durable state of a node. `backlog_cursor`: which stored messages a queue has.
  `message_restorer`: makes messages from rows. `send_progress`: records in the store how far
  messages have come. `removed_rows`: ends messages whose rows were removed. `commit_window`:
  limits how many messages wait for a commit.
- `policy`: rules about received messages. `access`, `denials`: denied DIDs, and the end of their
  messages. `log_limiter`: limits the log lines that a peer causes by linking.
- `send_queue`: the queue to a peer, with a lane for each stream. `lanes`: those of one kind, which
  share a limit, and slots reserved for Critical. `bounded_queue`: limits of a queue.
  `room_waiters`: the callers that wait for room.
- `message`: a received message. `outgoing_message`: a message on its way out. `send_options`:
  the options that the messages of one call share, and their ids.
- `inbox`: received messages that the application has not taken yet. `fair_lanes`: the turns
  of their senders. `known_senders`: senders that come before strangers. `inbox_budget`: the
  bytes of all waiting messages. `stranger_room`: the bytes of all unfinished batches of strangers.
- `send_streams`, `receive_streams`: ordered exactly-once delivery across v2 links: numbers, marks,
  and messages in flight, of durable messages or of volatile ones. `all_send_streams`: those of
  both. `accepted`: the last accepted messages of a lane.
- `receipt`: the states of a sent message, and its end. `receipted_batch`: the parts of receipt
  proofs that the receipts of one batch share. `advice`: hints for its errors.
- `consumers`: parts of the node that take received messages by kind. `subscribers`: the peers that
  are subscribed to subjects of this node. `subscriptions`: those of this node to others.
- `deadlines`: deadlines in headers, and the clocks that they follow.
- `deadlines`: deadlines in headers, and the clocks that they follow. `age`: how old a message is.
- `silence`: when a watched peer counts as silent.
- `dial_history`: the past attempts to one address, and what they mean for the next one.
  `backoff`: pauses before the next attempt.
- `bounded_memory`: a map and a set that forget their oldest keys.
"""
