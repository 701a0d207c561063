"""Reads and changes JSON text without making a tree of it. No I/O."""
