"""What tenants may use: requests, tokens and streams at once, counted in one process or in Redis."""
