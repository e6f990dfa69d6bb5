"""Messages between the application and a link, without sockets.

- `lanes`: the bounded queue with one lane per priority and slots reserved for
  Critical. Each peer has one for sending; the inbox is another.
- `message`: a message as the sending and as the receiving application sees it.
- `inbox`: received messages that the application has not taken yet.
- `streams`: exactly-once order across v2 links: numbers, marks, and batches in flight.
- `receipt`: the states of a sent message, and the waits for them.
- `backoff`: delays between attempts.
- `evidence_log`: the file of accepted envelopes, and the thread that writes it.
- `screen`: the checks of a received v1 frame.
- `replay`: the bounded memory against repeated v1 envelopes.
"""
