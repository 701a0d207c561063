"""Reads and changes JSON text without parsing it into a tree. No I/O."""
