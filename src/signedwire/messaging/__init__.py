"""Parts of a node above messages.

- `requests`: a message that waits for its reply, and the replies of this node.
- `handlers`: functions of the application that answer requests.
- `codecs`: typed payloads as bytes, and back. `subjects`: the subject of each type.
"""
