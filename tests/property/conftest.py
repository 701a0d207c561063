"""No deadline for one example: a busy machine is no failure. EXAMPLES asks for more examples than usual."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("flowserver", deadline=None, max_examples=int(os.environ.get("EXAMPLES", "100")))
settings.load_profile("flowserver")
