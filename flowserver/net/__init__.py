"""What the relay asks of sockets and transports, for both sides."""
