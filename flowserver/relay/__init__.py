"""The core of the relay: one exchange at a time, between two streams that it knows only by their interfaces."""
