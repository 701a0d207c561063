"""The middle of the relay: one exchange at a time, between two streams it knows by their ports only."""
