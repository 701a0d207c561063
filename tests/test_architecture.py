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

# A room is a module or folder directly inside the package. A room may always import itself and the package's own
# __init__. Those of `config` that have a line here are rooms of their own: vocabulary, which rooms below need.
VOCABULARY = frozenset({"errors", "names"})
WIRE = VOCABULARY | {"http", "json_text"}
CORE = WIRE | {"config.addresses", "dialects", "events", "flow", "quota"}
ANYTHING = frozenset({"*"})

MAY_IMPORT: dict[str, frozenset[str]] = {
    # Values that everything speaks of.
    "errors": frozenset(),
    "names": frozenset(),
    # Formats: functions and codecs over bytes, which know nothing of the relay that uses them.
    "json_text": frozenset(),
    "http": WIRE,
    "events": frozenset({"json_text"}),
    "flow": frozenset(),
    "dialects": VOCABULARY | {"json_text"},
    # Who may use the relay, and how much of it.
    "quota": WIRE | {"dialects"},
    "config.addresses": frozenset(),
    "config.entries": frozenset(),
    "config.tables": frozenset({"config.entries"}),
    "config.tenants": frozenset({"config.entries", "config.tables", "quota"}),
    "config": WIRE | {"config.addresses", "config.entries", "config.tables", "config.tenants", "dialects", "quota"},
    # One exchange at a time; which provider serves it is routing's business.
    "relay": CORE,
    "routing": CORE | {"relay"},
    # Where limits and tenants are kept.
    "stores": VOCABULARY | {"config.tenants", "quota", "relay", "routing"},
    # Sockets and transports; the two sides never import each other.
    "net": frozenset(),
    "downstream": WIRE | {"config.addresses", "flow", "net", "relay"},
    "upstream": WIRE | {"config.addresses", "flow", "net", "relay"},
    "telemetry": CORE | {"config", "relay", "routing"},
    # Processes and what passes between them, whatever they do.
    "workers": frozenset(),
    # A provider, not a part of the relay: it stands beside it.
    "simulator": frozenset(),
    "app": CORE
    | {
        "config",
        "config.tenants",
        "downstream",
        "net",
        "relay",
        "routing",
        "stores",
        "telemetry",
        "upstream",
        "workers",
    },
    "cli": ANYTHING,
    "__main__": frozenset({"cli"}),
}
OWN_ROOMS = frozenset(room for room in MAY_IMPORT if "." in room)
OUTSIDE = frozenset({"simulator", "cli", "__main__", "bench", "tests"})
"""Never imported by the relay's rooms."""
RELAY_ROOMS = MAY_IMPORT.keys() - OUTSIDE

NO_IO = (
    "errors.py",
    "names.py",
    *(f"{room}/*.py" for room in ("http", "json_text", "events", "flow", "dialects", "quota", "relay", "routing")),
)
IO_MODULES = frozenset(
    {"asyncio", "random", "select", "selectors", "socket", "ssl", "subprocess", "threading", "time", "uvloop"}
)
MAY_SEE_PRIVATE_PARTS = frozenset(
    f"flowserver/http/{name}.py" for name in ("h2_bounded_state", "h2_client_state", "h2_server_state")
)
"""Where h2's own state is kept true by hand: nobody else knows its connections and streams."""
H2_STATE = frozenset({"h2.connection", "h2.stream", "h2.settings", "h2.windows", "h2.config"})


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
        if any(fnmatch(path, f"{PACKAGE}/{pattern}") for pattern in NO_IO)
        for line, target in imports(path, sources)
        if target.split(".")[0] in IO_MODULES
    ]


def circles(sources: Sources) -> list[str]:
    """Groups of files that import each other, directly or by way of others, also for types only."""
    known = {module_of(path): path for path in sources}
    wanted = {module: {name for _, name in imports(path, sources) if name in known} for module, path in known.items()}
    reached = {module: _reachable(module, wanted) for module in known}
    return sorted(module for module in known if module in reached[module])


def _reachable(start: str, wanted: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = list(wanted[start])
    while ahead:
        module = ahead.pop()
        if module not in found:
            found.add(module)
            ahead += wanted[module]
    return found


def private_imports(sources: Sources) -> list[str]:
    """Underscore names that are imported from another file of the package."""
    return [
        f"{path}:{node.lineno}: imports {alias.name}"
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text, path))
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith(PACKAGE))
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
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
    extras = {"upstream/aws": import_names(optional["bedrock"])}
    extras |= dict.fromkeys(("cli/top", "cli/top_screen", "cli/top_view"), import_names(optional["top"]))
    assert undeclared(load(), required, extras) == []


def test_no_two_files_import_each_other() -> None:
    assert circles(load()) == []


def test_no_file_imports_private_names_of_another() -> None:
    users = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in ("tests", "bench")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert private_imports(load() | users) == []


def uses_of_h2_state(sources: Sources) -> list[str]:
    return [
        f"{path}:{line}: imports {target}"
        for path in sources.keys() - MAY_SEE_PRIVATE_PARTS
        for line, target in imports(path, sources)
        if target in H2_STATE
    ]


def test_three_files_know_h2_s_state() -> None:
    assert uses_of_h2_state(load()) == []
    assert len(uses_of_h2_state({"flowserver/upstream/h2.py": "import h2.errors\nimport h2.stream"})) == 1


def test_no_file_is_two_things() -> None:
    assert too_long(load()) == []


def test_the_package_is_found() -> None:
    assert "flowserver/__init__.py" in load()


# The rules, on made-up sources


FOLDERS = MAY_IMPORT.keys() - OWN_ROOMS - VOCABULARY - {"__main__"}


def made_up(path: str, text: str) -> dict[str, str]:
    """One file among empty ones that make up a whole package."""
    files = [f"flowserver/{name}.py" for name in ("__init__", "__main__", *VOCABULARY)]
    files += [f"flowserver/{room}/{name}.py" for room in FOLDERS for name in ("__init__", "part")]
    files += [f"flowserver/{room.replace('.', '/')}.py" for room in OWN_ROOMS]
    return dict.fromkeys(files, "") | {path: text}


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
        ("flowserver/upstream/h1.py", "from ..routing import part"),
        ("flowserver/relay/exchange.py", "from flowserver.downstream import part"),
        ("flowserver/relay/exchange.py", "from flowserver.upstream import part"),
        ("flowserver/relay/exchange.py", "from flowserver.telemetry import part"),
        ("flowserver/relay/exchange.py", "from ..routing import part"),
        (
            "flowserver/relay/exchange.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..upstream.part import Pool",
        ),
        ("flowserver/relay/exchange.py", "from flowserver.stores.part import Store"),
        ("flowserver/relay/exchange.py", "from ..config.file import Topology"),
        ("flowserver/relay/exchange.py", "from ..config import part, addresses"),
        ("flowserver/config/addresses.py", "from .part import Setting"),
        ("flowserver/stores/part.py", "from ..cli.tenants import main"),
        ("flowserver/stores/part.py", "from ..app.tenancy import Tenancy"),
        ("flowserver/routing/part.py", "from ..app import part"),
        ("flowserver/http/part.py", "from ..relay import part"),
        ("flowserver/events/part.py", "from ..dialects import part"),
        ("flowserver/flow/part.py", "from flowserver.relay import part"),
        ("flowserver/flow/part.py", "from .. import relay"),
        ("flowserver/telemetry/log.py", "from flowserver.downstream import part"),
        ("flowserver/upstream/h1.py", "import flowserver.app"),
        ("flowserver/app/part.py", "from flowserver.simulator import part"),
        ("flowserver/app/part.py", "from bench import events"),
        ("flowserver/upstream/h1.py", "from flowserver.cli.demo import run"),
        ("flowserver/simulator/app.py", "from flowserver.relay import part"),
        ("flowserver/__init__.py", "from flowserver.flow.part import Buffer"),
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
        ("flowserver/app/part.py", "from flowserver import downstream, upstream\nfrom ..telemetry import part"),
        ("flowserver/app/part.py", "from flowserver.relay.part import Exchange\nfrom ..config.part import Config"),
        ("flowserver/downstream/h1.py", "from ..relay import part\nfrom . import part as own\nimport asyncio"),
        ("flowserver/downstream/__init__.py", "from .part import Listener"),
        ("flowserver/relay/part.py", "from ..events.part import Scanner\nfrom .part import Format"),
        ("flowserver/relay/exchange.py", "from flowserver.flow import part\nfrom .part import Port"),
        ("flowserver/http/messages.py", "from flowserver.errors import RelayError"),
        ("flowserver/cli/part.py", "from flowserver import app, simulator"),
        ("flowserver/__main__.py", "from .cli.part import run"),
        ("flowserver/relay/part.py", "from flowserver import __version__"),
        ("flowserver/relay/part.py", "from ..quota.limits import Limit"),
        ("flowserver/relay/part.py", "from ..config import addresses"),
        ("flowserver/stores/part.py", "from ..config.tenants import read"),
        ("flowserver/app/tenancy.py", "from ..stores.part import Store\nfrom ..relay import part"),
    ],
)
def test_a_right_direction_passes(path: str, text: str) -> None:
    assert wrong_directions(made_up(path, text)) == []


@pytest.mark.parametrize(
    "second",
    [
        "from .part import A",
        "from . import part",
        "def late():\n    from .part import A",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .part import A",
    ],
)
def test_a_circle_is_seen(second: str) -> None:
    sources = made_up("flowserver/relay/part.py", "from .other import B") | {"flowserver/relay/other.py": second}
    assert circles(sources) == ["flowserver.relay.other", "flowserver.relay.part"]
    assert circles(sources | {"flowserver/relay/other.py": "from ..flow.part import C"}) == []


def test_private_names_of_other_files_are_seen() -> None:
    def found(text: str) -> int:
        return len(private_imports({"flowserver/relay/part.py": text}))

    assert found("from .other import _hidden") == 1
    assert found("from flowserver.flow.part import _Hidden, shown") == 1
    assert found("from .other import shown\nfrom .. import __version__\nfrom _thread import start_new_thread") == 0


@pytest.mark.parametrize("text", ["import asyncio", "from time import monotonic", "import asyncio.events as x"])
@pytest.mark.parametrize("file", ["flow/part.py", "relay/exchange.py", "dialects/openai.py"])
def test_io_is_seen_where_there_should_be_none(file: str, text: str) -> None:
    assert len(input_and_output(made_up(f"flowserver/{file}", text))) == 1


@pytest.mark.parametrize("module", sorted(IO_MODULES))
def test_every_io_module_is_seen(module: str) -> None:
    assert len(input_and_output({"flowserver/events/sse.py": f"def f():\n    import {module}"})) == 1


def test_io_is_free_elsewhere() -> None:
    assert input_and_output(made_up("flowserver/downstream/h1.py", "import asyncio, time, socket")) == []
    assert input_and_output(made_up("flowserver/flow/part.py", "from ..errors import time\nimport json")) == []


def test_undeclared_imports_are_seen() -> None:
    required = import_names(["prometheus-client>=0.20", "h11", "httpx[http2]>=0.27"])
    extras = {"cli/demo": import_names(["rich"]), "upstream/aws": import_names(["botocore>=1"])}

    def found(path: str, text: str) -> int:
        return len(undeclared({path: text}, required, extras))

    assert found("flowserver/app/relay.py", "import requests") == 1
    assert found("flowserver/app/relay.py", "def f():\n    from yaml import load") == 1
    assert found("flowserver/app/relay.py", "import rich") == 1
    assert found("flowserver/cli/demo.py", "import rich.table") == 0
    assert found("flowserver/upstream/aws.py", "import botocore.auth") == 0
    assert found("flowserver/upstream/h1.py", "import botocore.auth") == 1
    assert found("flowserver/cli/demo/view.py", "from rich import table") == 0
    assert found("flowserver/app/relay.py", "import h11, httpx, json\nfrom prometheus_client import core") == 0
    assert found("flowserver/app/relay.py", "from . import flow\nimport flowserver.sse") == 0


def test_length_is_counted() -> None:
    sources = {"flowserver/a.py": "x = 1\n" * MAX_LINES, "flowserver/b.py": "x = 1\n" * (MAX_LINES + 1)}
    assert [each.split(":")[0] for each in too_long(sources)] == ["flowserver/b.py"]
