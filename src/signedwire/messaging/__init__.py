"""Features above single messages.

- `silence`: calls the application when a peer is silent.
- `within`: the age of a received message.
"""
