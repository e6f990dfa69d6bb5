"""What happens to messages between the application and a link, without sockets.

- `lanes`: the bounded queue with one lane per priority and slots reserved for
  Critical. One such queue stands before every peer, and one behind the listener.
- `receipt`: the ladder a sent message climbs, and its end.
- `backoff`: how long to wait before the next attempt.
- `screen`: what a received frame must pass before the application sees it.
- `replay`: the bounded memory that delivers a repeated envelope once.
"""
