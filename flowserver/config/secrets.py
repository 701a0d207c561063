"""References to secrets. In settings and in the TOML file, `env:NAME`, `file:PATH` and `credential:NAME` stand for the
content of a variable, a file or a systemd credential. Messages show the reference, never the content."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_REFERENCE = re.compile(r"(env|file|credential):(.*)", re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIAL = re.compile(r"(?!\.\.?$)[^/\x00-\x1f]+")

FORMS = "'env:NAME', 'file:PATH' or 'credential:NAME'"


def is_reference(text: str) -> bool:
    return _REFERENCE.fullmatch(text) is not None


def resolve(text: str, environ: Mapping[str, str], folder: Path) -> str:
    """The secret that `text` refers to, without whitespace around it; a literal is returned unchanged. Paths are
    relative to `folder`. Raises ValueError if there is nothing."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return text
    kind, where = match.groups()
    if kind == "env":
        return _variable(where, environ)
    if kind == "credential":
        return _content(credential(where, environ), f"the credential {where}", "see LoadCredential in systemd.exec(5)")
    if not where:
        raise ValueError(f"expected {FORMS}")
    return _content(folder / where, f"the file {where}", "create it, or name another one")


def path_of(text: str, environ: Mapping[str, str]) -> str:
    """The path of a file that a setting names: of a credential, or `text` itself. Raises ValueError."""
    kind, _, where = text.partition(":")
    return str(credential(where, environ)) if kind == "credential" else text


def credential(name: str, environ: Mapping[str, str]) -> Path:
    """The file of a credential (LoadCredential, systemd.exec(5)). Raises ValueError if there can be none."""
    if not _CREDENTIAL.fullmatch(name):
        raise ValueError("expected 'credential:NAME', where NAME is not a path")
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        raise ValueError(
            f"there is no credential {name}, as CREDENTIALS_DIRECTORY is not set; "
            "systemd sets it for units with LoadCredential"
        )
    return Path(directory, name)


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("expected 'env:NAME', where NAME is a variable's name")
    secret = environ.get(name, "").strip()
    if not secret:
        raise ValueError(f"the variable {name} is not set; set it, or name another one")
    return secret


def remedy_of(error: OSError) -> str:
    """What to do about a file that can't be read."""
    if isinstance(error, FileNotFoundError):
        return f"create it, or name another one; a relative path begins in {os.getcwd()}"
    if isinstance(error, IsADirectoryError):
        return "name a file in it"
    if isinstance(error, PermissionError):
        return f"give user {os.geteuid()}, who runs this process, permission to read it"
    return "name another one"


def _content(path: Path, what: str, remedy: str) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:  # its message contains the content
        raise ValueError(f"{what} can't be read: it is not UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or "no path"
        raise ValueError(f"{what} can't be read: {reason}; {remedy}") from None
    if not secret:
        raise ValueError(f"{what} is empty")
    return secret
