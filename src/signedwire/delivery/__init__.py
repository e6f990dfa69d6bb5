"""What happens to messages between the application and a link, without sockets.

- `lanes`: the bounded queue with one lane per priority and slots reserved for
  Critical. One such queue stands before every peer, and one behind the listener.
- `message`: a message as the sending and as the receiving application sees it.
- `inbox`: what has arrived and the application has not taken yet.
- `streams`: order and once, across v2 links: numbers, marks, and what is in flight.
- `receipt`: the ladder a sent message climbs, and its end.
- `backoff`: how long to wait before the next attempt.
- `evidence_log`: the file that keeps what was accepted, and the thread that writes it.
- `screen`: what a received v1 frame must pass before the application sees it.
- `replay`: the bounded memory that delivers a repeated v1 envelope once.
"""
