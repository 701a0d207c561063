"""Worker processes that serve one relay's clients, and the parent that starts them and gives them connections."""
