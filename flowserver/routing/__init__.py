"""Which provider serves a request, and what becomes of it there. No I/O."""
