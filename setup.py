"""Compiles most of the package with mypyc, if FLOWSERVER_COMPILE=1.

    FLOWSERVER_COMPILE=1 pip install .

needs a C compiler and Python's headers. Without the variable the package is pure Python, and so are editable installs,
always. The sources are the same, and so is what they do; `flowserver version` tells which build is installed.
"""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from itertools import chain
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Whatever a request or a chunk passes through. Not: config, app, cli (run once) and the simulator.
ROOMS = (
    "http",
    "events",
    "json_text",
    "flow",
    "dialects",
    "quota",
    "relay",
    "routing",
    "downstream",
    "upstream",
    "net",
    "telemetry",
    "stores",
)
FILES = ("errors.py", "names.py")

INTERPRETED = {
    # They change attributes of h2's own classes with `+=` and `-=`, which mypyc cannot for a base it does not compile.
    "http/h2_bounded_state.py",
    "http/h2_client_state.py",
    "http/h2_server_state.py",
    # A generator with a `finally`, which has to run when the generator is dropped; a compiled one does not run it.
    "http/h2_frames.py",
    # ClassVars of dataclasses: mypyc takes them for fields.
    "quota/limits.py",
    # An async generator, which mypyc does not know.
    "stores/redis_connection.py",
    # It gives the kernel the address of a buffer: compiled code frees one after the last use of its name.
    "net/reuse_port.py",
    # They wait for Redis, for AWS and for /proc: nothing to gain.
    "stores/directory.py",
    "stores/redis_store.py",
    "telemetry/process.py",
    "net/port_holder.py",
    "upstream/aws.py",
}


def modules() -> list[str]:
    """The files to compile. Packages' own (`__init__.py`) are left alone: there is nothing in them to run twice."""
    found = [f"{room}/*.py" for room in ROOMS]
    files = chain(FILES, chain.from_iterable(glob(pattern, root_dir="flowserver") for pattern in found))
    return sorted(f"flowserver/{file}" for file in files if file not in INTERPRETED and "__init__" not in file)


def extensions() -> list[Extension]:
    from mypyc.build import mypycify

    # What an earlier build left there would be installed with this one.
    shutil.rmtree("build", ignore_errors=True)
    # Without the project's settings for mypy: what is only unclean, under other versions of the dependencies, must
    # not keep anyone from building.
    options = ["--config-file=", "--ignore-missing-imports"]
    made = mypycify([*options, *modules()], group_name="flowserver", multi_file=True, opt_level="2", debug_level="0")
    for extension in made:
        # Calls from one file to another go straight to their target, not through a table that the loader fills.
        extension.extra_compile_args = [*extension.extra_compile_args, "-fvisibility=hidden"]
    correct_slices(Path("build/bytes_ops.c"))
    return made


def correct_slices(runtime: Path) -> None:
    """A slice of bytes whose start is beyond its end is empty. In mypyc's runtime (2.4) it raises SystemError."""
    text = runtime.read_text()
    runtime.write_text(text.replace("slice_len = endn - startn;", "slice_len = endn > startn ? endn - startn : 0;"))


class BuildInParallel(build_ext):
    """Compiles the C files of an extension on all cores. (`build_ext --parallel` runs extensions in parallel, and here
    there is one that has all of them.)"""

    def build_extensions(self) -> None:
        compile_all = self.compiler.compile

        def compile_each(sources: list[str], **options: object) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(chain.from_iterable(pool.map(lambda source: compile_all([source], **options), sources)))

        self.compiler.compile = compile_each
        super().build_extensions()


# Not for the commands that only collect metadata, and would compile all over again.
compiled = os.environ.get("FLOWSERVER_COMPILE") == "1" and "bdist_wheel" in sys.argv
setup(ext_modules=extensions() if compiled else [], cmdclass={"build_ext": BuildInParallel})
