"""Limit stores, in this process or in Redis, and the directory of tenants."""
