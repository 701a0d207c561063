"""Puts the relay together: the composition root, its providers, its tenants."""
