"""Sockets and transports, for both sides."""
