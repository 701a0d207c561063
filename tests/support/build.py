"""Which build of the package is tested."""

from __future__ import annotations

from flowserver.http import messages

COMPILED = not messages.__file__.endswith(".py")
"""By mypyc: a slice of all bytes of an object is a copy then."""
