"""Backpressure without I/O: bounded buffers, gates, progress."""
