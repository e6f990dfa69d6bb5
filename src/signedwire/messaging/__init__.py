"""What applications build on messages: requests with replies, and topics."""
