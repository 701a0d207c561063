"""HTTP on the wire, without I/O: heads, chunks, frames, and the fields that are passed on between the two sides."""
