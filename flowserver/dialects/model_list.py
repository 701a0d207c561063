"""Recognises requests for lists of models, and filters the lists by what a tenant may see. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from .api_paths import api_path

_LIST = re.compile(r".*/(?:models(?:/([^/]+(?:/[^/]+)?))?|api/tags)", re.IGNORECASE)
_HOLDERS = ("data", "models")
"""Where an answer has its models; some are the list itself."""
_NAMES = ("id", "name", "model")
_EDGES = {"first_id": 0, "last_id": -1}
"""Anthropic's names of the first and last model on a page."""
_GOOGLE = "models/"
"""The prefix of a model's name in Google's lists."""

EMPTY = b'{"object":"list","data":[]}'


def listed_model(target: str) -> str | None:
    """The model that a GET of `target` describes; "" if it lists all models, None if it does neither."""
    match = _LIST.fullmatch(api_path(target))
    return None if match is None else match[1] or ""


def visible_models(body: bytes, allows: Callable[[str], bool], aliases: Mapping[str, list[str]]) -> bytes:
    """The list in `body` with only the models that `allows` accepts; a model with `aliases` is checked and shown by
    these. `EMPTY` if it can't be read or rewritten."""
    try:
        shown = _filtered(orjson.loads(body), allows, aliases)
        return EMPTY if shown is None else orjson.dumps(shown)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the latter: nested deeper than orjson writes
        return EMPTY


def _filtered(answer: Any, allows: Callable[[str], bool], aliases: Mapping[str, list[str]]) -> Any:
    """None: neither a list nor a visible model."""
    if isinstance(answer, list):
        return _visible(answer, allows, aliases)
    if not isinstance(answer, dict):
        return None
    holders = [name for name in _HOLDERS if isinstance(answer.get(name), list)]
    if not holders:
        return next(iter(_visible([answer], allows, aliases)), None)
    for name in holders:
        answer[name] = _visible(answer[name], allows, aliases)
    models = answer[holders[0]]
    for edge, index in _EDGES.items():
        if edge in answer:
            answer[edge] = _name(models[index]) if models else None
    return answer


def _visible(models: list[Any], allows: Callable[[str], bool], aliases: Mapping[str, list[str]]) -> list[Any]:
    shown: list[Any] = []
    for model in models:
        name = _name(model)
        if name is None:
            continue
        if allows(name):
            shown.append(model)
        shown += [_renamed(model, name, alias) for alias in aliases.get(name, ()) if alias != name and allows(alias)]
    return shown


def _name(model: Any) -> str | None:
    if not isinstance(model, dict):
        return None
    name = next((model[field] for field in _NAMES if isinstance(model.get(field), str)), None)
    return name.removeprefix(_GOOGLE) if name is not None else None


def _renamed(model: dict[str, Any], name: str, alias: str) -> dict[str, Any]:
    names = {name: alias, _GOOGLE + name: _GOOGLE + alias}
    return {field: names.get(value, value) if isinstance(value, str) else value for field, value in model.items()}
