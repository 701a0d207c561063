"""`python -m flowserver.simulator`."""

import sys

from . import main

sys.exit(main(sys.argv[1:]))
