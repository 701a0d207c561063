"""What can be seen of the relay: metrics, the access log, and the admin pages."""
