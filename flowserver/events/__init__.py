"""Finds the events of a stream as it passes. No I/O."""
