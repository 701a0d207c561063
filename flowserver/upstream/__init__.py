"""The provider's side: dialling, keeping connections, and HTTP/1.1."""
