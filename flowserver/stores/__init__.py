"""Where limits are counted, in this process or in Redis, and where tenants are kept."""
