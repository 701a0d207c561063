"""How providers read the paths of their APIs: leniently, and each in its own way. No I/O.

Some servers ignore case, trailing slashes or `;parameters`, and nearly all decode a path once. An API is recognised in
any spelling, since an unrecognised one is not counted.
"""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase
from urllib.parse import quote, unquote

from ..names import cached

_PARAMETERS = re.compile(r";[^/]*")
_MODEL_LIST = re.compile(r"(?:(?:/openai)?(?:/v1|/v1beta|/v1alpha)?/models(?:/[^/]+)?|/api/tags)/?")

# The two letters are ASCII's by Unicode's rules of case. Unlike `str.lower`, no text changes its length.
_FOLDED = str.maketrans(ascii_uppercase + "\u017f\u212a", ascii_lowercase + "sk")

_DEPLOYMENTS = ("/deployments/", "/engines/")
_DEPLOYED = (
    "/extensions/chat/completions",
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
    "/audio/transcriptions",
    "/audio/translations",
    "/audio/speech",
    "/images/generations",
    "/images/edits",
    "/images/variations",
)


def api_path(target: str) -> str:
    """The path of `target`, decoded once, without `;parameters` and trailing slashes; its case is kept."""
    return _readings(target)[0][0]


def ends_with(target: str, *ends: str) -> bool:
    """Whether the path of `target` ends with one of `ends`, which are in lower case."""
    return any(folded.endswith(ends) for _, folded in _readings(target))


def find_model(target: str, holders: tuple[str, ...], ends: tuple[str, ...]) -> tuple[str, str] | None:
    """The model in the path of `target`, in its own case, and which of `ends` follows it. The model comes after the
    last of `holders`, such as "/models/". Both are in lower case. None: no model."""
    for path, folded in _readings(target):
        end = next((end for end in ends if folded.endswith(end)), None)
        if end is None:
            continue
        stop = len(path) - len(end)
        found = [start + len(holder) for holder in holders if (start := folded.rfind(holder, 0, stop)) >= 0]
        if found:
            return path[max(found) : stop], end
    return None


def deployment_of(target: str) -> str | None:
    """The model in a path of Azure's: /openai/deployments/MODEL/chat/completions, or one without tokens such as
    .../audio/speech; None: there is none."""
    return _deployment_of(target.partition("?")[0])


def with_model(target: str, model: str, other: str) -> str:
    """`target` with `other` in place of `model` in its path; unchanged if no segment is just that name, with or without
    an action such as `:generateContent`."""
    path, mark, query = target.partition("?")
    segments = path.split("/")
    for index in range(len(segments) - 1, 0, -1):
        name, colon, action = segments[index].rpartition(":")
        for before, behind in ((segments[index], ""), (name, colon + action)):
            if unquote(before) == model:
                segments[index] = quote(other, safe=":@") + behind
                return "/".join(segments) + mark + query
    return target


def without_parameters(path: str) -> str:
    """`path` as Java servers read it."""
    return _PARAMETERS.sub("", path) if ";" in path else path


def is_model_list(path: str) -> bool:
    """Whether a GET of `path` lists models or describes one. Only the usual spelling: no other is needed."""
    return _MODEL_LIST.fullmatch(path) is not None


def _readings(target: str) -> tuple[tuple[str, str], ...]:
    """The ways in which providers may read the path of `target`, each unchanged and in lower case. Some servers ignore
    what follows a semicolon; others may find a model or Google's action there."""
    return _read(target.partition("?")[0])


@cached
def _read(path: str) -> tuple[tuple[str, str], ...]:
    decoded = unquote(path)
    plain = without_parameters(decoded).rstrip("/")
    readings = (plain,) if plain == decoded else (plain, decoded.rstrip("/"))
    return tuple((reading, reading.translate(_FOLDED)) for reading in readings)


@cached
def _deployment_of(path: str) -> str | None:
    found = find_model(path, _DEPLOYMENTS, _DEPLOYED)
    return found[0] or None if found is not None else None
