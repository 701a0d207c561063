"""The shape of the package: which room may import which, and what each file keeps away from.

Each rule is a function from sources to the list of what breaks it, so that it is tried on made-up sources as
well as on the package itself.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "flowserver"
MAX_LINES = 600

Sources = Mapping[str, str]
"""Path from the repository's root ("flowserver/flow.py") -> source text."""

# A room is a module or folder directly inside the package. The bottom rooms may import one another; a room
# may always import itself and the package's own __init__.
BOTTOM = frozenset(
    {
        "body_kind",
        "config",
        "errors",
        "eventstream",
        "flow",
        "form_data",
        "frames",
        "framing",
        "h2_bounds",
        "h2_guard",
        "hpack_decoder",
        "json_edits",
        "json_members",
        "limits.store",
        "messages",
        "names",
        "parsers",
        "paths",
        "sse",
        "tls",
        "json_array",
        "json_reducer",
        "json_scan",
        "large_event",
        "whole_body",
    }
)
# A file that is a room of its own. What a limit store is asked and answers is vocabulary, which the middle speaks too;
# the stores themselves, with their I/O, stay a side that it never sees.
OWN_ROOMS = frozenset({"limits.store"})
SIDES = frozenset({"downstream", "upstream", "limits", "telemetry"})
ANYTHING = frozenset({"*"})

MAY_IMPORT: dict[str, frozenset[str]] = {
    **dict.fromkeys(BOTTOM, BOTTOM),
    # Know the names of providers by it.
    **dict.fromkeys(("config", "parsers"), BOTTOM | {"dialects"}),
    # Formats are data and functions over bytes: they know nothing of the relay that uses them.
    "dialects": BOTTOM,
    "relay": BOTTOM | {"dialects"},
    **dict.fromkeys(SIDES, BOTTOM | {"relay", "dialects"}),
    # What the file says, tenants among it, which are the middle's.
    "topology": BOTTOM | {"relay", "dialects"},
    # Puts the provider's side together, for the server.
    "providers": BOTTOM | {"relay", "dialects", "topology", "upstream"},
    # Puts tenants and the stores of their limits together, for the server: the middle sees neither Redis nor files.
    "tenancy": BOTTOM | {"relay", "topology", "limits"},
    "server": BOTTOM | {"relay", "dialects", "providers", "tenancy", "topology"} | SIDES,
    # Writes the tenants that relays look up, and shows what the stores counted.
    "tenants_cli": BOTTOM | {"relay", "limits"},
    # A provider, not a part of the relay: it stands beside it, and knows of the wire and of nothing else.
    "simulator": BOTTOM,
    # What the command line starts.
    "commands": ANYTHING,
    "__main__": BOTTOM | {"commands"},
    "demo": ANYTHING,
}

# Never imported by the relay's rooms, whatever the table says.
OUTSIDE = frozenset({"simulator", "demo", "tenants_cli", "commands", "__main__", "bench", "tests"})
RELAY_ROOMS = BOTTOM | {"relay", "dialects", "topology"} | SIDES | {"providers", "server", "tenancy"}

NO_IO = (
    "flowserver/body_kind.py",
    "flowserver/errors.py",
    "flowserver/eventstream.py",
    "flowserver/flow.py",
    "flowserver/frames.py",
    "flowserver/framing.py",
    "flowserver/h2_bounds.py",
    "flowserver/h2_guard.py",
    "flowserver/hpack_decoder.py",
    "flowserver/json_array.py",
    "flowserver/json_reducer.py",
    "flowserver/json_scan.py",
    "flowserver/large_event.py",
    "flowserver/messages.py",
    "flowserver/form_data.py",
    "flowserver/json_edits.py",
    "flowserver/json_members.py",
    "flowserver/names.py",
    "flowserver/paths.py",
    "flowserver/sse.py",
    "flowserver/whole_body.py",
    "flowserver/limits/store.py",
    "flowserver/limits/accounts.py",
    "flowserver/relay/*.py",
    "flowserver/dialects/*.py",
)
IO_MODULES = frozenset(
    {"asyncio", "random", "select", "selectors", "socket", "ssl", "subprocess", "threading", "time", "uvloop"}
)


def load(root: Path = ROOT) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((root / PACKAGE).rglob("*.py"))
    }


def module_of(path: str) -> str:
    """The dotted name of a file: "flowserver/relay/__init__.py" is "flowserver.relay"."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def room_of(module: str) -> str:
    """The room of a dotted name inside the package; "" for the package's own __init__."""
    inner = module.removeprefix(f"{PACKAGE}.")
    return inner if inner in OWN_ROOMS else [*module.split("."), ""][1]


def imports(path: str, sources: Sources) -> Iterator[tuple[int, str]]:
    """Each import of a file as (line, dotted module), also those in functions and under TYPE_CHECKING."""
    known = {module_of(each) for each in sources}
    package = module_of(path).split(".")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(sources[path], path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *(node.module or "").split(".")]).rstrip(".")
            for alias in node.names:
                # `from flowserver import flow` takes a module, `from flowserver import __version__` a name.
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in known else base


def wrong_directions(sources: Sources) -> list[str]:
    wrong = []
    for path in sources:
        room = room_of(module_of(path))
        if room and room not in MAY_IMPORT:
            wrong.append(f"{path}: the room {room!r} has no place in MAY_IMPORT")
            continue
        allowed = MAY_IMPORT.get(room, frozenset())
        for line, target in imports(path, sources):
            top, wanted = target.split(".")[0], room_of(target)
            if top in OUTSIDE and room in RELAY_ROOMS:
                wrong.append(f"{path}:{line}: {room} imports {target}")
            elif top != PACKAGE or wanted in ("", room) or allowed == ANYTHING:
                continue
            elif wanted not in allowed:
                wrong.append(f"{path}:{line}: {room or PACKAGE} imports {target}")
    return wrong


def input_and_output(sources: Sources) -> list[str]:
    return [
        f"{path}:{line}: imports {target}, but does no I/O and reads no clock"
        for path in sources
        if any(fnmatch(path, pattern) for pattern in NO_IO)
        for line, target in imports(path, sources)
        if target.split(".")[0] in IO_MODULES
    ]


def undeclared(sources: Sources, required: frozenset[str], extras: Mapping[str, frozenset[str]]) -> list[str]:
    """Imports that nothing brings along: neither Python nor the package's declared dependencies. `extras` has what is
    optional, by the module or folder that may import it."""
    wrong = []
    for path in sources:
        allowed = required | sys.stdlib_module_names | {PACKAGE}
        for module, names in extras.items():
            if path.startswith((f"{PACKAGE}/{module}.", f"{PACKAGE}/{module}/")):
                allowed |= names
        for line, target in imports(path, sources):
            if target.split(".")[0] not in allowed:
                wrong.append(f"{path}:{line}: imports {target}, which is no dependency of the package")
    return wrong


def too_long(sources: Sources) -> list[str]:
    lengths = {path: len(text.splitlines()) for path, text in sources.items()}
    return [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > MAX_LINES]


def import_names(requirements: list[str]) -> frozenset[str]:
    """What ["redis>=5", "prometheus-client"] are imported as, each by its own name."""
    names = [re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in requirements]
    return frozenset(name.replace("-", "_").lower() for name in names)


# The package itself


def test_imports_point_one_way() -> None:
    assert wrong_directions(load()) == []


def test_files_without_io_import_none() -> None:
    assert input_and_output(load()) == []


def test_only_declared_dependencies_are_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = import_names(project["dependencies"])
    optional = project["optional-dependencies"]
    extras = {"demo": import_names(optional["demo"]), "upstream/aws": import_names(optional["bedrock"])}
    assert undeclared(load(), required, extras) == []


def test_no_file_is_two_things() -> None:
    assert too_long(load()) == []


def test_the_package_is_found() -> None:
    assert "flowserver/__init__.py" in load()


# The rules, on made-up sources


def made_up(path: str, text: str) -> dict[str, str]:
    """One file among empty ones that make up a whole package."""
    rooms = sorted(
        room.replace(".", "/") for room in RELAY_ROOMS | {"simulator", "demo", "tenants_cli", "commands", "__main__"}
    )
    files = dict.fromkeys(["flowserver/__init__.py", *(f"flowserver/{room}.py" for room in rooms)], "")
    for room in (*SIDES, "relay", "simulator"):
        del files[f"flowserver/{room}.py"]
        files |= {f"flowserver/{room}/__init__.py": "", f"flowserver/{room}/part.py": ""}
    return files | {path: text}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("flowserver/downstream/h1.py", "from flowserver.upstream.part import Pool"),
        ("flowserver/downstream/h1.py", "from flowserver.upstream import part"),
        ("flowserver/downstream/h1.py", "import flowserver.upstream.part as up"),
        ("flowserver/downstream/h1.py", "from ..upstream import part"),
        ("flowserver/downstream/h1.py", "from .. import upstream"),
        ("flowserver/downstream/__init__.py", "from ..upstream import part"),
        ("flowserver/upstream/h1.py", "from flowserver import downstream"),
        ("flowserver/upstream/h1.py", "def late():\n    from flowserver.downstream import part"),
        ("flowserver/relay/exchange.py", "from flowserver.downstream import part"),
        ("flowserver/relay/exchange.py", "from flowserver.upstream import part"),
        ("flowserver/relay/exchange.py", "from flowserver.telemetry import part"),
        (
            "flowserver/relay/exchange.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..upstream.part import Pool",
        ),
        ("flowserver/relay/exchange.py", "from flowserver.limits.part import Store"),
        ("flowserver/relay/exchange.py", "from ..limits import part, store"),
        ("flowserver/limits/store.py", "from .part import Store"),
        ("flowserver/relay/exchange.py", "from ..topology import Topology"),
        ("flowserver/limits/part.py", "from ..tenants_cli import main"),
        ("flowserver/limits/part.py", "from ..tenancy import Tenancy"),
        ("flowserver/relay/exchange.py", "from ..tenancy import Tenancy"),
        ("flowserver/tenancy.py", "from .downstream import part"),
        ("flowserver/flow.py", "from flowserver.relay import part"),
        ("flowserver/flow.py", "from . import relay"),
        ("flowserver/telemetry/log.py", "from flowserver.downstream import part"),
        ("flowserver/upstream/h1.py", "import flowserver.server"),
        ("flowserver/server.py", "from flowserver.simulator import part"),
        ("flowserver/server.py", "from bench import events"),
        ("flowserver/upstream/h1.py", "from flowserver.demo import run"),
        ("flowserver/simulator/app.py", "from flowserver.relay import part"),
        ("flowserver/__init__.py", "from flowserver.flow import ChunkQueue"),
        ("flowserver/attic.py", ""),
        ("flowserver/attic/old.py", ""),
    ],
)
def test_a_wrong_direction_is_seen(path: str, text: str) -> None:
    wrong = wrong_directions(made_up(path, text))
    assert len(wrong) == 1
    assert wrong[0].startswith(f"{path}:")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("flowserver/server.py", "from flowserver import downstream, upstream\nfrom .telemetry import part"),
        ("flowserver/server.py", "from flowserver.relay.part import Exchange\nfrom .config import Config"),
        (
            "flowserver/downstream/h1.py",
            "from ..relay import part\nfrom . import part as own\nimport asyncio",
        ),
        ("flowserver/downstream/__init__.py", "from .part import Listener"),
        ("flowserver/dialects/openai.py", "from ..sse import Scanner\nfrom .part import Format"),
        ("flowserver/relay/exchange.py", "from flowserver.flow import ReadGate\nfrom .part import Port"),
        ("flowserver/messages.py", "from flowserver.errors import Refusal"),
        ("flowserver/commands.py", "from flowserver import server, simulator, demo"),
        ("flowserver/__main__.py", "from .commands import run"),
        ("flowserver/demo.py", "from flowserver.simulator.part import Provider"),
        ("flowserver/relay/part.py", "from flowserver import __version__"),
        ("flowserver/relay/part.py", "from ..limits.store import Limit"),
        ("flowserver/relay/part.py", "from ..limits import store"),
        ("flowserver/limits/part.py", "from .store import Limit"),
        ("flowserver/tenancy.py", "from .limits.part import Store\nfrom .relay import part"),
        ("flowserver/server.py", "from .tenancy import Tenancy"),
    ],
)
def test_a_right_direction_passes(path: str, text: str) -> None:
    assert wrong_directions(made_up(path, text)) == []


@pytest.mark.parametrize("text", ["import asyncio", "from time import monotonic", "import asyncio.events as x"])
@pytest.mark.parametrize("file", ["flow.py", "relay/exchange.py", "dialects/openai.py"])
def test_io_is_seen_where_there_should_be_none(file: str, text: str) -> None:
    assert len(input_and_output(made_up(f"flowserver/{file}", text))) == 1


@pytest.mark.parametrize("module", sorted(IO_MODULES))
def test_every_io_module_is_seen(module: str) -> None:
    assert len(input_and_output({"flowserver/sse.py": f"def f():\n    import {module}"})) == 1


def test_io_is_free_elsewhere() -> None:
    assert input_and_output(made_up("flowserver/downstream/h1.py", "import asyncio, time, socket")) == []
    assert input_and_output(made_up("flowserver/flow.py", "from .errors import time\nimport json")) == []


def test_undeclared_imports_are_seen() -> None:
    required = import_names(["prometheus-client>=0.20", "h11", "httpx[http2]>=0.27"])
    extras = {"demo": import_names(["rich"]), "upstream/aws": import_names(["botocore>=1"])}

    def found(path: str, text: str) -> int:
        return len(undeclared({path: text}, required, extras))

    assert found("flowserver/server.py", "import requests") == 1
    assert found("flowserver/server.py", "def f():\n    from yaml import load") == 1
    assert found("flowserver/server.py", "import rich") == 1
    assert found("flowserver/demo.py", "import rich.table") == 0
    assert found("flowserver/upstream/aws.py", "import botocore.auth") == 0
    assert found("flowserver/upstream/h1.py", "import botocore.auth") == 1
    assert found("flowserver/demo/view.py", "from rich import table") == 0
    assert found("flowserver/server.py", "import h11, httpx, json\nfrom prometheus_client import core") == 0
    assert found("flowserver/server.py", "from . import flow\nimport flowserver.sse") == 0


def test_length_is_counted() -> None:
    sources = {"flowserver/a.py": "x = 1\n" * MAX_LINES, "flowserver/b.py": "x = 1\n" * (MAX_LINES + 1)}
    assert [each.split(":")[0] for each in too_long(sources)] == ["flowserver/b.py"]
