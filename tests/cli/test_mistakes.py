"""The mistakes that are made with a first start, and what is said of each: where it is, and what to do about it.

docs/mistakes.md is made of what this test sees; `make docs` writes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
import trustme

from flowserver.cli.commands import run
from tests.support.lab import free_port
from tests.support.redis import RedisServer, redis_program

PAGE = Path(__file__).parent.parent.parent / "docs" / "mistakes.md"
OK = {"FLOW_UPSTREAM": "http://127.0.0.1:8000"}
FILE = {"FLOW_CONFIG": "flow.toml"}
OPENAI = '[[upstreams]]\nname = "openai"\nurl = "https://api.openai.com"\n'
ONE = "[[upstreams]]\nname = 'a'\nurl = 'https://a.test'\n"
TLS = {"FLOW_TLS_CERT": "server.pem", "FLOW_TLS_KEY": "server.key"}
PORT = free_port()
"""In use by the test itself."""
NO_BIND, NO_READ = 10, (1, 2)
"""Capabilities of root that take away what they do not need: CAP_NET_BIND_SERVICE, CAP_DAC_OVERRIDE and its like."""


@dataclass(frozen=True)
class Mistake:
    """One row of the table."""

    title: str
    place: str
    """What the message begins with."""
    remedy: str
    """What it has to say besides."""
    environ: Mapping[str, str] = field(default_factory=dict)
    toml: str = ""
    """The file of FLOW_CONFIG."""
    command: tuple[str, ...] = ("check",)
    status: int = 78
    without: tuple[int, ...] = ()
    """Capabilities that the process does without; it is one of its own then."""
    around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    """What is there meanwhile."""

    @property
    def written(self) -> str:
        """As the page shows it."""
        if self.toml:
            return " ".join(line.strip() for line in self.toml.strip().splitlines())
        variables = [f"{name}={value}" for name, value in self.environ.items() if OK.get(name) != value]
        return " ".join([*variables, "flowserver", *self.command])


@contextlib.contextmanager
def redis_with_password() -> Iterator[None]:
    server = RedisServer(PORT, tempfile.gettempdir())
    server.start()
    try:
        with redis.Redis(port=PORT) as client:
            client.config_set("requirepass", "right")
        yield
    finally:
        server.stop()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    with socket.create_server(("127.0.0.1", PORT)):
        yield


@contextlib.contextmanager
def unknown_authority() -> Iterator[None]:
    """A server whose certificate nobody here trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            connection.settimeout(10)
            context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", PORT)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield
        thread.join()


MISTAKES = [
    # The command line
    Mistake("a misspelt command", "argument COMMAND", "did you mean serve?", command=("sreve",), status=2),
    Mistake(
        *("a misspelt flag", "unrecognized arguments: --high-watre", "did you mean --high-water?"),
        command=("serve", "--high-watre", "64k"),
        status=2,
    ),
    Mistake(
        *("a key in a flag", "--upstream-api-key", "set FLOW_UPSTREAM_API_KEY, or give a reference: 'env:NAME'"),
        command=("serve", "--upstream-api-key", "sk-123"),
        status=2,
    ),
    # Variables and values
    Mistake("a misspelt variable", "warning: FLOW_UPSTEAM", "did you mean FLOW_UPSTREAM?", {"FLOW_UPSTEAM": "x"}),
    Mistake("no provider", "FLOW_UPSTREAM: not set", "give the provider's base URL"),
    Mistake(
        *("quotes that no shell removes", "FLOW_HIGH_WATER", "remove them"),
        {**OK, "FLOW_HIGH_WATER": "'64k'"},
    ),
    Mistake(
        *("a variable that no shell replaces", "FLOW_UPSTREAM_API_KEY", "give its value, or a reference"),
        {**OK, "FLOW_UPSTREAM_API_KEY": "$OPENAI_API_KEY"},
    ),
    Mistake("an unknown unit", "FLOW_HIGH_WATER", "a size such as 65536, 64k", {**OK, "FLOW_HIGH_WATER": "64 kilo"}),
    Mistake("a misspelt word", "FLOW_DISCONNECT", "did you mean drain?", {**OK, "FLOW_DISCONNECT": "drian"}),
    Mistake(
        *("watermarks the wrong way round", "FLOW_LOW_WATER", "must be below FLOW_HIGH_WATER; set only one"),
        {**OK, "FLOW_LOW_WATER": "64k", "FLOW_HIGH_WATER": "16k"},
    ),
    Mistake(
        *("heartbeats that come too late", "warning: FLOW_HEARTBEAT", "shorten it"),
        {**OK, "FLOW_HEARTBEAT": "10m"},
        status=0,
    ),
    Mistake(
        *("more clients than descriptors", "warning: FLOW_MAX_CONNECTIONS", "raise the limit"),
        {**OK, "FLOW_MAX_CONNECTIONS": "1_000_000_000"},
        status=0,
    ),
    # Addresses
    Mistake("a port without an address", "FLOW_LISTEN", ":8080 for all interfaces", {**OK, "FLOW_LISTEN": "8080"}),
    Mistake(
        *("a port that is in use", "FLOW_LISTEN", "end process "),
        {**OK, "FLOW_LISTEN": f"127.0.0.1:{PORT}", "FLOW_ADMIN_LISTEN": "off"},
        command=("serve",),
        status=1,
        around=listening,
    ),
    Mistake(
        *("a port below 1024 without the right to it", "FLOW_LISTEN", "choose a port above 1023"),
        {**OK, "FLOW_LISTEN": "127.0.0.1:443", "FLOW_ADMIN_LISTEN": "off"},
        command=("serve",),
        without=(NO_BIND,),
    ),
    Mistake(
        *("an address of another machine", "FLOW_LISTEN", "choose one of its own"),
        {**OK, "FLOW_LISTEN": "192.0.2.1:8080", "FLOW_ADMIN_LISTEN": "off"},
        command=("serve",),
        status=1,
    ),
    Mistake(
        *("a Unix socket in a folder that is not there", "FLOW_LISTEN", "create the folder"),
        {**OK, "FLOW_LISTEN": "unix:/run/no-such-folder/flow.sock", "FLOW_ADMIN_LISTEN": "off"},
        command=("serve",),
        status=1,
    ),
    # The provider
    Mistake("a URL without a scheme", "FLOW_UPSTREAM", "did you mean https://a.test?", {"FLOW_UPSTREAM": "a.test"}),
    Mistake(
        *("the URL of one API", "warning: FLOW_UPSTREAM", "give the base URL, https://a.test/v1"),
        {"FLOW_UPSTREAM": "https://a.test/v1/chat/completions"},
        status=0,
    ),
    Mistake(
        *("keys in the clear", "warning: FLOW_UPSTREAM", "write https://api.openai.com"),
        {"FLOW_UPSTREAM": "http://api.openai.com"},
        status=0,
    ),
    Mistake(
        *("the relay as its own provider", "FLOW_UPSTREAM", "give the provider's own address"),
        {"FLOW_UPSTREAM": "http://localhost:8080"},
    ),
    Mistake(
        *("a reference to nothing", "FLOW_UPSTREAM_API_KEY", "the variable MY_KEY is not set; set it"),
        {**OK, "FLOW_UPSTREAM_API_KEY": "env:MY_KEY"},
    ),
    Mistake(
        *("a provider that does not run", "upstream 127.0.0.1", "is it running"),
        {"FLOW_UPSTREAM": f"http://127.0.0.1:{PORT}"},
        command=("check", "--connect", "--listen", "127.0.0.1:0", "--admin-listen", "off"),
        status=1,
    ),
    Mistake(
        *(
            "a provider with an unknown authority",
            "upstream 127.0.0.1",
            "name the file of its authorities in FLOW_UPSTREAM_CA",
        ),
        {"FLOW_UPSTREAM": f"https://127.0.0.1:{PORT}"},
        command=("check", "--connect", "--listen", "127.0.0.1:0", "--admin-listen", "off"),
        status=1,
        around=unknown_authority,
    ),
    # TLS
    Mistake(
        *("a file that is not there", "FLOW_TLS_CERT: missing.pem", "create it, or name another one"),
        {**OK, **TLS, "FLOW_TLS_CERT": "missing.pem"},
    ),
    Mistake(
        *("certificate and key mixed up", "FLOW_TLS_CERT: server.key", "are the two files swapped?"),
        {**OK, "FLOW_TLS_CERT": "server.key", "FLOW_TLS_KEY": "server.pem"},
    ),
    Mistake(
        *("the key of another certificate", "FLOW_TLS_CERT, FLOW_TLS_KEY", "use a matching pair"),
        {**OK, **TLS, "FLOW_TLS_KEY": "other.key"},
    ),
    Mistake(
        *("a key with a password", "FLOW_TLS_KEY", "openssl pkey -in locked.key -out NEW_FILE"),
        {**OK, **TLS, "FLOW_TLS_KEY": "locked.key"},
    ),
    Mistake(
        *("an expired certificate", "warning: FLOW_TLS_CERT", "renew it"),
        {**OK, "FLOW_TLS_CERT": "expired.pem", "FLOW_TLS_KEY": "expired.key"},
        status=0,
    ),
    # Redis
    Mistake(
        *("a URL that is not Redis's", "FLOW_REDIS_URL", "such as redis://127.0.0.1:6379/0"),
        {**OK, "FLOW_REDIS_URL": "127.0.0.1:6379"},
    ),
    Mistake(
        *("a wrong password", "FLOW_REDIS_URL", "give user and password"),
        {**OK, "FLOW_UPSTREAM": "http+unix://%2Fnone", "FLOW_REDIS_URL": f"redis://:wrong@127.0.0.1:{PORT}"},
        command=("check", "--connect", "--listen", "127.0.0.1:0", "--admin-listen", "off"),
        status=1,
        around=redis_with_password,
    ),
    # The file
    Mistake("a file that is not there", "FLOW_CONFIG: flow.toml", "create it, or name another one", FILE),
    Mistake("a folder in place of a file", "FLOW_CONFIG: .", "name a file in it", {"FLOW_CONFIG": "."}),
    Mistake(
        *("a file that may not be read", "FLOW_CONFIG: secret.toml", "give user"),
        {"FLOW_CONFIG": "secret.toml"},
        without=NO_READ,
    ),
    Mistake("a file and FLOW_UPSTREAM", "FLOW_UPSTREAM", "name the provider in flow.toml", {**FILE, **OK}, OPENAI),
    Mistake("text without quotes", "flow.toml: line 2", "text needs quotes", FILE, "[[upstreams]]\nname = openai\n"),
    Mistake("a key itself", "flow.toml: upstreams[0].api_key", "'env:NAME'", FILE, f"{ONE}api_key = 'sk-123'"),
    Mistake(
        "a misspelt key", "flow.toml: upstreams[0].api-key", "did you mean api_key?", FILE, f"{ONE}api-key = 'env:K'"
    ),
    Mistake(
        "a misspelt table", "flow.toml: upstream", "did you mean upstreams?", FILE, ONE.replace("upstreams", "upstream")
    ),
    Mistake("a name that is there twice", "flow.toml: upstreams: the name 'a'", "more than once", FILE, ONE + ONE),
    Mistake(
        *("a route to nobody", "flow.toml: routes[0].upstreams", "did you mean openai?", FILE),
        f"{OPENAI}[[routes]]\nupstreams = ['opnai']",
    ),
    Mistake(
        *("a regular expression for models", "warning: flow.toml: routes[0].models", "use * for any text", FILE),
        f"{ONE}[[routes]]\nmodels = ['^gpt-.*']\nupstreams = ['a']",
        status=0,
    ),
]


def test_there_are_enough_of_them() -> None:
    assert len({(each.title, each.place) for each in MISTAKES}) == len(MISTAKES) == 42


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with certificates, right and wrong."""
    folder = tmp_path_factory.mktemp("flowserver")
    authority = trustme.CA()
    past = datetime(2020, 1, 2, tzinfo=UTC)
    for name, issued in (
        ("server", authority.issue_cert("localhost")),
        ("other", authority.issue_cert("localhost")),
        ("expired", authority.issue_cert("localhost", not_after=past)),
    ):
        (folder / f"{name}.key").write_bytes(issued.private_key_pem.bytes())
        (folder / f"{name}.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (folder / "locked.key").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    (folder / "secret.toml").touch(mode=0)
    return folder


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[each.title for each in MISTAKES])
def test_a_mistake_is_told_with_its_place_and_its_remedy(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake = MISTAKES[number]
    if mistake.around is redis_with_password:
        redis_program()
    for name in [name for name in os.environ if name.startswith("FLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)
    (folder / "flow.toml").unlink(missing_ok=True)
    if mistake.toml:
        (folder / "flow.toml").write_text(mistake.toml, encoding="utf-8")
    for name, value in mistake.environ.items():
        monkeypatch.setenv(name, value)
    with mistake.around():
        status, said = _process(mistake) if mistake.without else _run(mistake, capsys)
    assert (status, [line for line in said if mistake.place in line and mistake.remedy in line]) != (status, []), said
    assert status == mistake.status, said
    assert "sk-123" not in "".join(said)
    _hold(number, _told(mistake, said, folder))


def _run(mistake: Mistake, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    try:
        status = run(list(mistake.command))
    except SystemExit as ended:
        status = int(str(ended.code))
    printed = capsys.readouterr()
    return status, [*printed.err.splitlines(), *printed.out.splitlines()]


def _process(mistake: Mistake) -> tuple[int, list[str]]:
    """The same as a process that lacks some of root's rights."""
    if mistake.without == (NO_BIND,) and Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() != "1024\n":
        pytest.skip("any port may be listened on here")

    def give_up() -> None:
        if os.geteuid() == 0:
            libc = ctypes.CDLL(None, use_errno=True)
            assert all(libc.prctl(24, number) == 0 for number in mistake.without)  # PR_CAPBSET_DROP

    root = str(PAGE.parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "flowserver", *mistake.command],
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", root)},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=give_up,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def _told(mistake: Mistake, said: list[str], folder: Path) -> str:
    """The line about it, with what differs from machine to machine replaced."""
    [line, *_] = [line for line in said if mistake.place in line and mistake.remedy in line]
    for what, replacement in (
        (rf"{re.escape(str(folder))}", "/srv/flowserver"),
        (rf"\b{PORT}\b", "8000"),
        (r"process \d+ \(.*\), or", "process 4711 (nginx), or"),
        (r"user \d+", "user 1000"),
        (r"gets \d+", "gets 524288"),
        (r"set it to \d+", "set it to 262112"),
    ):
        line = re.sub(what, replacement, line)
    return line.removeprefix("flowserver: ")


def _hold(number: int, told: str) -> None:
    """Hold the row of the page against what was said; under `make docs`, write it."""
    row = _row(number, told)
    rows = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    if os.environ.get("UPDATE_DOCS"):
        kept = {line.split("|")[1].strip(): line for line in rows if re.match(r"\| \d+ \|", line)}
        kept[str(number + 1)] = row
        table = [kept[key] for key in sorted(kept, key=int) if int(key) <= len(MISTAKES)]
        PAGE.write_text("\n".join([HEAD, *table]) + "\n", encoding="utf-8")
    else:
        assert row in rows, "docs/mistakes.md is out of date: run `make docs`"


HEAD = """# Mistakes in the configuration

`flowserver check` finds these mistakes, and `flowserver serve` refuses to start with them. Each message names the
setting or the place in the file, and the remedy. A `warning` does not prevent a start. `flowserver check --connect`
also tests addresses, providers and Redis. Statuses are those of [operating.md](operating.md#what-the-commands-return).

These are accepted: whitespace and Windows line ends around values, a byte order mark in the file, empty
values (the default), `true`, `yes` and `1` for `on`, `warn` for `warning`, `64KB`, `64 KiB` and `65_536` for `64k`, and
`1m30s`.

| | mistake | input | message | status |
|---|---|---|---|---|"""


def _row(number: int, told: str) -> str:
    mistake = MISTAKES[number]
    written = mistake.written.replace(str(PORT), "8000")
    cells = [str(number + 1), mistake.title, _code(written), _code(told), str(mistake.status)]
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def test_what_is_understood_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte order mark, Windows' line ends, blanks, empty values, and other words for the same."""
    (tmp_path / "flow.toml").write_bytes(("\ufeff" + ONE).replace("\n", "\r\n").encode())
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FLOW_")]:  # those of the tests themselves
        monkeypatch.delenv(name)
    for name, value in (("CONFIG", "flow.toml \r"), ("LOG_LEVEL", "warn"), ("REUSE_PORT", "true"), ("LISTEN", "")):
        monkeypatch.setenv(f"FLOW_{name}", value)
    assert run(["check", "--high-water", "64KB", "--idle-timeout=1m30s", "--fast-path"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert re.search(r"^FLOW_HIGH_WATER +64KB +flag ", printed.out, re.MULTILINE)
    assert re.search(r"^FLOW_LOG_LEVEL +warn +environment ", printed.out, re.MULTILINE)
    assert re.search(r"^FLOW_LISTEN +127.0.0.1:8080 +default ", printed.out, re.MULTILINE)
