"""What every test may rely on, whoever started pytest."""

import signal

# A shell starts its background jobs with SIGINT ignored, and so would every child
# that a test starts be: then nothing of Ctrl-C could be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
