"""HTTP on the wire, without I/O: heads, chunks, frames, and what may pass between the two sides."""
