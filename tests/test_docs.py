"""What the project says of itself is true: settings, links, make targets, addresses.

Each check is a function from texts to what is wrong with them, so that it is tried on made-up texts as well
as on the project's own.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from flowserver.app.service_manager import BEAT, EXTENSION
from flowserver.config.settings import SETTINGS

ROOT = Path(__file__).resolve().parent.parent

# Read by tests, not by the server; misspelt to be found. No settings.
NOT_SETTINGS = frozenset({"FLOW_CORPUS", "FLOW_UPSTEAM"})

# Written so that this file does not hold what it looks for. Each with the one file that may have it.
FORBIDDEN = {"../" + "shared": ".ci/run", "/" + "root/": None, "/" + "work/": None}


def settings() -> dict[str, str]:
    """Name -> default, as the code has them."""
    return {entry.env: entry.default for entry in SETTINGS}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def documents() -> dict[str, str]:
    """The Markdown files a reader is led to, by their path from the root."""
    folders = [ROOT / name for name in ("docs", "systemd", "deploy")]
    paths = [ROOT / "README.md", *(path for folder in folders for path in folder.rglob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(paths)}


# (a) Settings


def table_rows(markdown: str) -> Iterator[tuple[str, str, str]]:
    """(name, default, meaning) of each row that begins with a setting; a dash stands for no default."""
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if len(cells) >= 3 and re.fullmatch(r"`FLOW_[A-Z0-9_]+`", cells[0]):
            default = cells[1]
            if default in ("-", "–", "—", "none"):
                default = ""
            elif len(default) > 1 and default[0] == default[-1] == "`":
                default = default[1:-1]
            yield cells[0].strip("`"), default, cells[2]


def wrong_settings(markdown: str, declared: Mapping[str, str]) -> list[str]:
    wrong = []
    seen: set[str] = set()
    for name, default, meaning in table_rows(markdown):
        if name in seen:
            wrong.append(f"{name}: twice in the table")
        elif name not in declared:
            wrong.append(f"{name}: in the table, but no setting of the code")
        elif default != declared[name]:
            wrong.append(f"{name}: the table says {default!r}, the code {declared[name]!r}")
        elif not meaning:
            wrong.append(f"{name}: no word on what it means")
        seen.add(name)
    return wrong


def names_in(text: str) -> set[str]:
    """Names that look like settings; `FLOW_SOMETHING_*` names a family and is none."""
    names = re.findall(r"(?<!\w)FLOW_[A-Z0-9_]+", text)
    return {name for name in names if not name.endswith("_")} - NOT_SETTINGS


def names_in_code(source: str) -> set[str]:
    """The same in the strings of Python source, docstrings aside: shows a setting read past the table."""
    nodes = list(ast.walk(ast.parse(source)))
    documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    strings = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in documentation]
    return set().union(*(names_in(node.value) for node in strings if isinstance(node.value, str)))


def seconds(text: str) -> float:
    """A time as settings and systemd write it: "500ms", "30s", "5m", "330"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|min|h)?", text)
    assert match, text
    return float(match[1]) * {None: 1, "ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


def test_the_settings_in_the_readme_are_real_and_have_their_defaults() -> None:
    assert wrong_settings(read("README.md"), settings()) == []
    said = {name: meaning.replace("`", "") for name, _, meaning in table_rows(read("README.md"))}
    assert said
    assert said == {entry.env: entry.doc.replace("`", "") for entry in SETTINGS if entry.env in said}


DEPLOYED = [
    *("Dockerfile", "systemd/flowserver.service", "systemd/flowserver.env"),
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "deploy").rglob("*.*")) if path.suffix != ".md"),
]


@pytest.mark.parametrize("name", DEPLOYED)
def test_deployment_files_name_real_settings(name: str) -> None:
    assert names_in(read(name)) - settings().keys() == set()


def test_documents_name_real_settings() -> None:
    known = settings().keys()
    unknown = {name: names_in(text) - known for name, text in documents().items()}
    assert {name: names for name, names in unknown.items() if names} == {}


def test_the_code_reads_only_declared_settings() -> None:
    known = settings().keys()
    unknown = {
        path.relative_to(ROOT).as_posix(): names_in_code(path.read_text(encoding="utf-8")) - known
        for path in sorted((ROOT / "flowserver").rglob("*.py"))
    }
    assert {path: names for path, names in unknown.items() if names} == {}


def test_systemd_waits_until_it_is_asked_for_more_time() -> None:
    """However long the drain is: what is asked for at each beat lasts for several."""
    stop = re.search(r"^TimeoutStopSec=(\S+)$", read("systemd/flowserver.service"), re.MULTILINE)
    assert stop
    assert min(seconds(stop[1]), EXTENSION) >= 3 * BEAT


TABLE = """
| Setting | Default | Meaning |
| --- | --- | --- |
| `FLOW_LISTEN` | `127.0.0.1:8080` | where clients connect |
| `FLOW_CONFIG` | | a TOML file, `a \\| b` |
| `FLOW_HIGH_WATER` | `64k` | bytes |
"""
DECLARED = {"FLOW_LISTEN": "127.0.0.1:8080", "FLOW_CONFIG": "", "FLOW_HIGH_WATER": "64k"}


def test_a_right_table_passes() -> None:
    assert wrong_settings(TABLE, DECLARED) == []
    for dash in ("–", "—", "-", "none", "``"):
        assert wrong_settings(TABLE.replace("CONFIG` | |", f"CONFIG` | {dash} |"), DECLARED) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("`64k`", "`32k`", "FLOW_HIGH_WATER: the table says '32k', the code '64k'"),
        ("`64k`", "", "FLOW_HIGH_WATER: the table says '', the code '64k'"),
        ("bytes |", "x |\n| `FLOW_OLD` | `1` | gone |", "FLOW_OLD: in the table, but no setting of the code"),
        ("bytes |", "x |\n| `FLOW_HIGH_WATER` | `64k` | y |", "FLOW_HIGH_WATER: twice in the table"),
        ("| bytes |", "| |", "FLOW_HIGH_WATER: no word on what it means"),
    ],
)
def test_a_wrong_table_is_seen(old: str, new: str, said: str) -> None:
    assert wrong_settings(TABLE.replace(old, new), DECLARED) == [said]


def test_names_are_found() -> None:
    assert names_in("FLOW_A=$FLOW_B `FLOW_C` FLOW_D_* FLOW_CORPUS OVERFLOW_E") == {
        "FLOW_A",
        "FLOW_B",
        "FLOW_C",
    }
    code = "def f():\n  'As FLOW_A.'\n  FLOW_B = 1\n  x = os.environ['FLOW_C']\n  y = f'{x} FLOW_D'"
    assert names_in_code(code) == {"FLOW_C", "FLOW_D"}


# (b) Links


def without_code(markdown: str) -> str:
    fences = re.sub(r"^( *)(```+|~~~+).*?^ *\2[^\n]*$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?:(?!\1).)+?\1", "", fences)


def local_links(markdown: str) -> list[str]:
    text = without_code(markdown)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    targets += re.findall(r"^\s{0,3}\[[^\]]+\]:\s*<?([^\s>]+)", text, flags=re.MULTILINE)
    targets += re.findall(r"""<[^>]*\b(?:src|href|srcset)\s*=\s*["']([^"'\s]+)""", text)
    local = [target for target in targets if not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//|#", target)]
    return [re.split("[#?]", target)[0] for target in local]


def broken_links(name: str, markdown: str, root: Path) -> list[str]:
    wrong = []
    for link in local_links(markdown):
        path = (root / name).parent / link
        if not path.exists() or not path.resolve().is_relative_to(root.resolve()):
            wrong.append(f"{name}: {link}")
    return wrong


def test_local_links_lead_somewhere() -> None:
    assert [wrong for name, text in documents().items() for wrong in broken_links(name, text, ROOT)] == []


def test_broken_links_are_seen(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "there.md").touch()
    (tmp_path / "LICENSE").touch()

    def broken(markdown: str, name: str = "README.md") -> list[str]:
        return broken_links(name, markdown, tmp_path)

    good = """[a](docs/there.md) [b](docs/there.md#part "title") [c](#here) [d](https://x.example/no)
    [e](mailto:a@x.example)
    ![f](LICENSE) [g](docs/) `[h](no.md)`
```sh
[i](no.md)
```
[j]: docs/there.md
<img src="LICENSE">
"""
    assert broken(good) == []
    assert broken("[a](../LICENSE) [b](there.md)", "docs/x.md") == []
    for bad in ("[a](no.md)", "![a](no.md#x)", "[a]: no.md", '<img src="no.md">', "[![x](no.md)](LICENSE)"):
        assert broken(bad) == ["README.md: no.md"], bad
    assert broken("[a](../)") == ["README.md: ../"]


# (c) Make targets


def targets_of(makefile: str) -> set[str]:
    rules = re.findall(r"^([A-Za-z][\w -]*):(?!=)", makefile, flags=re.MULTILINE)
    return {target for rule in rules for target in rule.split()}


def code_of(markdown: str) -> Iterator[str]:
    """The shell in a document: fenced blocks line by line without comments, and inline code."""
    rest = markdown
    for fence in re.finditer(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", markdown, flags=re.MULTILINE | re.DOTALL):
        rest = rest.replace(fence[0], "")
        if fence[1] in ("", "sh", "bash", "shell", "console"):
            yield from (re.sub(r"(^|\s)#.*", "", line) for line in fence[2].splitlines())
    yield from re.findall(r"`([^`\n]+)`", rest)


def made(markdown: str) -> set[str]:
    """The targets that a document tells the reader to make."""
    targets: set[str] = set()
    for line in code_of(markdown):
        for command in re.findall(r"(?:^|[\s;&|(])make((?:\s+[\w./=-]+)*)", line):
            targets.update(word for word in command.split() if "=" not in word and not word.startswith("-"))
    return targets


def test_documents_name_real_make_targets() -> None:
    known = targets_of(read("Makefile"))
    unknown = {name: made(text) - known for name, text in documents().items()}
    assert {name: targets for name, targets in unknown.items() if targets} == {}


TARGETS = {"help", "demo", "test", "test-all", "lint", "types", "docs", "bench", "clean"}


def test_the_makefile_has_what_a_reader_expects() -> None:
    assert targets_of(read("Makefile")) >= TARGETS


def test_make_targets_are_found() -> None:
    markdown = """`make demo` or `make test ARGS="-k sse"`; make sure of `x`, `make -j2 types` and `cmake no`.
```sh
git clone x && make lint   # then make sure of it
$ make bench clean
```
```python
make nothing
```
"""
    assert made(markdown) == {"demo", "test", "types", "lint", "bench", "clean"}
    rules = "A := 1\nVENV ?= x\ndemo: x ## say\n\tmake: no\ntest-all lint:\n.PHONY: y\n"
    assert targets_of(rules) == {"demo", "test-all", "lint"}


# (d) Addresses of one machine only


def forbidden_words(files: Iterable[tuple[str, str]]) -> list[str]:
    return [
        f"{name}:{number}: {word}"
        for name, text in files
        for number, line in enumerate(text.splitlines(), 1)
        for word, only_in in FORBIDDEN.items()
        if word in line and name != only_in
    ]


def project_files() -> Iterator[tuple[str, str]]:
    """What git tracks, or would with the next `git add`."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"git cannot list the project's files: {problem}")
    for name in sorted(set(map(os.fsdecode, listed.split(b"\0"))) - {""}):
        path = ROOT / name
        if path.is_file():
            yield name, path.read_text(encoding="utf-8", errors="replace")


def test_no_address_of_one_machine_only() -> None:
    assert forbidden_words(project_files()) == []


def test_forbidden_words_are_seen() -> None:
    first, second, third = FORBIDDEN
    assert forbidden_words([("a.py", f"x\nopen('{first}/y')")]) == [f"a.py:2: {first}"]
    assert forbidden_words([(".ci/run", f"cd {first}")]) == []
    assert forbidden_words([("a.md", f"see {second}x"), ("b.md", f"{third}x")]) == [
        f"a.md:1: {second}",
        f"b.md:1: {third}",
    ]


# (e) Files


def named_files(markdown: str) -> Iterator[str]:
    """Patterns of the files that a document names: in a tree of the package by folder, in its text by path."""
    folder = ""
    for line in "".join(re.findall(r"^```\nflowserver/\n.*?^```", markdown, re.MULTILINE | re.DOTALL)).splitlines():
        if named := re.match(r"  (\w+/)", line):
            folder = named[1]
        yield from (f"{folder}{name}" for name in re.findall(r"[\w*]+\.(?:py|lua)\b", line))
    yield from re.findall(r"`([\w/]+/\w+\.(?:py|lua|md))`", markdown)


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_named_files_exist(name: str) -> None:
    named = set(named_files(read(name)))
    assert len(named) > 20
    assert {each for each in named if not any(ROOT.glob(each)) and not any((ROOT / "flowserver").glob(each))} == set()
    assert broken_links(name, read(name), ROOT) == []


def test_the_architecture_names_every_file() -> None:
    named = set(named_files(read("docs/architecture.md")))
    rooms = {path.parent.name for path in (ROOT / "flowserver").glob("*/__init__.py")} - {"simulator"}
    files = {f"{path.parent.name}/{path.name}" for room in rooms for path in (ROOT / "flowserver" / room).glob("*.py")}
    assert {each for each in files if not each.endswith("/__init__.py")} - named == set()
