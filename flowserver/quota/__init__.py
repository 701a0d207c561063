"""Who may use the relay, and how much of it. No I/O."""
