"""Measures what a relay costs: run it with `python -m bench`."""
