"""The client's side: listening, and HTTP/1.1."""
