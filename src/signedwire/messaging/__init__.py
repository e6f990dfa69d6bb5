"""Parts of a node that are built on messages.

- `requests`: a message that waits for its reply, and the replies of this node.
- `handlers`: functions of the application that answer requests.
- `topics`: the publications and subscriptions of a node, and one payload for several peers.
  `outcomes`: the table of who has a message and who has not. `subscription`: the publications of
  one subject for the application.
- `silence`: calls the application when a peer is silent. `within`: the age of a message.
- `codecs`: typed payloads as bytes, and back. `subjects`: the subject of each type.
  `values`: values of calls and handlers as payloads.
"""
