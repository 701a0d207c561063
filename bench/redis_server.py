"""A Redis server for the cases that need one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from bench.cores import LOAD_CORES
from bench.processes import Process, free_port


@contextmanager
def redis_server() -> Iterator[int | None]:
    """Its port; None: it is not installed. It keeps nothing on disk, and is beside the load: a machine of its own in
    earnest."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        with Process([program, *options], port, cpus=LOAD_CORES):
            yield port
