"""`flowserver completion bash|zsh|fish`: a script that completes commands, flags and their values. The script is
generated from the commands' parsers, and starts no process when it completes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..config.kinds import FILE
from ..config.settings import SETTINGS
from .command_table import COMMANDS, parser_of
from .flags import words_of
from .usage import Parser, actions_of, subcommands

_FILES = frozenset(entry.flag for entry in SETTINGS if entry.kind is FILE) | {"--tls-cert", "--tls-key"}
_WORDS = {entry.flag: words_of(entry.kind) for entry in SETTINGS}


@dataclass(frozen=True, slots=True)
class Level:
    """What may follow a command, or a command and its subcommand."""

    command: str
    """`serve`, or `tenants add`."""
    words: list[tuple[str, str]]
    """Subcommands or words, with their descriptions."""
    flags: list[tuple[str, str]]


def parser() -> Parser:
    parser = Parser(
        prog="flowserver completion",
        description='Print a script for a shell. bash: eval "$(flowserver completion bash)" in ~/.bashrc; '
        "zsh: flowserver completion zsh >_flowserver in a folder of $fpath; "
        "fish: flowserver completion fish >~/.config/fish/completions/flowserver.fish",
    )
    parser.add_argument("shell", choices=tuple(_SCRIPTS))
    return parser


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    print(script(parser().read(arguments).shell), end="")
    return 0


def script(shell: str) -> str:
    levels = [level for name in COMMANDS for level in _levels(name, parser_of(name))]
    return _SCRIPTS[shell](levels)


def _levels(command: str, parser: argparse.ArgumentParser) -> Iterator[Level]:
    words, flags = [], []
    for action in actions_of(parser):
        inner = subcommands(action)
        helps = {each.dest: each.help or "" for each in getattr(action, "_choices_actions", ())}
        for name, parser_of_inner in inner.items():
            words.append((name, helps.get(name, "")))
            yield from _levels(f"{command} {name}", parser_of_inner)
        if not inner and not action.option_strings and action.choices:
            words += [(str(choice), "") for choice in action.choices]
        flags += [(flag, _first(action.help)) for flag in action.option_strings if flag.startswith("--")]
    yield Level(command, words, flags)


def _first(text: str | None) -> str:
    return re.sub(r" \[.*", "", (text or "").replace("%%", "%"))


# --- bash ---


def _bash(levels: list[Level]) -> str:
    lines = [
        "# bash completion for flowserver",
        "_flowserver() {",
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} first=${COMP_WORDS[1]}",
        "    local second=${COMP_WORDS[2]} words=",
        "    COMPREPLY=()",
        "    if [[ $COMP_CWORD -eq 1 ]]; then",
        f"        COMPREPLY=($(compgen -W '{' '.join(COMMANDS)} --help --version' -- \"$word\"))",
        "        return",
        "    fi",
        '    if [[ $word == "=" ]]; then word=; elif [[ $before == "=" ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi',
        "    case $before in",
        f'        {"|".join(sorted(_FILES))}) COMPREPLY=($(compgen -f -- "$word")); return ;;',
    ]
    lines += [
        f"        {flag}) COMPREPLY=($(compgen -W '{' '.join(words)}' -- \"$word\")); return ;;"
        for flag, words in _WORDS.items()
        if words and flag not in _FILES
    ]
    lines += ["    esac", '    case "$first $second" in']
    for level in _inner_first(levels):
        words = " ".join([*(word for word, _ in level.words), *(flag for flag, _ in level.flags)])
        lines.append(f"        {_pattern(level)}) words='{words}' ;;")
    lines += [
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -F _flowserver flowserver",
    ]
    return "\n".join(lines) + "\n"


# --- zsh ---


def _zsh(levels: list[Level]) -> str:
    lines = [
        "#compdef flowserver",
        "_flowserver() {",
        "    local before=${words[CURRENT-1]} first=${words[2]} second=${words[3]}",
        "    local -a commands choices flags",
        f"    commands=({' '.join(_described(name, about) for name, about in COMMANDS.items())})",
        "    if (( CURRENT == 2 )); then _describe command commands; return; fi",
        "    case $before in",
        f"        {'|'.join(sorted(_FILES))}) _files; return ;;",
    ]
    lines += [
        f"        {flag}) compadd -- {' '.join(words)}; return ;;"
        for flag, words in _WORDS.items()
        if words and flag not in _FILES
    ]
    lines += ["    esac", '    case "$first $second" in']
    for level in _inner_first(levels):
        words = " ".join(_described(word, about) for word, about in level.words)
        flags = " ".join(_described(flag, about) for flag, about in level.flags)
        lines.append(f"        {_pattern(level)}) choices=({words}); flags=({flags}) ;;")
    lines += [
        "    esac",
        "    (( $#choices )) && _describe word choices",
        "    _describe flag flags",
        "}",
        # As a file in $fpath it is called at once; by eval or source it is registered.
        'if [[ $funcstack[1] == _flowserver ]]; then _flowserver "$@"; else compdef _flowserver flowserver; fi',
    ]
    return "\n".join(lines) + "\n"


def _inner_first(levels: list[Level]) -> list[Level]:
    return sorted(levels, key=lambda level: -level.command.count(" "))


def _pattern(level: Level) -> str:
    """A pattern for `case` of bash and zsh: a command and its subcommand."""
    return f'"{level.command}"' if " " in level.command else f'"{level.command} "*'


def _described(word: str, about: str) -> str:
    text = about.replace(":", r"\:")
    return _quoted(f"{word}:{text}" if text else word)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- fish ---


def _fish(levels: list[Level]) -> str:
    lines = ["# fish completion for flowserver", "complete -c flowserver -f"]
    names = " ".join(COMMANDS)
    for name, about in COMMANDS.items():
        condition = f"not __fish_seen_subcommand_from {names}"
        lines.append(f"complete -c flowserver -n {_quoted(condition)} -a {name} -d {_quoted(about)}")
    for level in levels:
        condition = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in level.command.split())
        for word, about in level.words:
            lines.append(f"complete -c flowserver -n {_quoted(condition)} -a {word} -d {_quoted(about)}")
        for flag, about in level.flags:
            lines.append(
                f"complete -c flowserver -n {_quoted(condition)} -l {flag[2:]}{_fish_value(flag)} -d {_quoted(about)}"
            )
    return "\n".join(lines) + "\n"


def _fish_value(flag: str) -> str:
    if flag in _FILES:
        return " -r -F"
    return f" -x -a {_quoted(' '.join(_WORDS[flag]))}" if flag in _WORDS else ""


_SCRIPTS: dict[str, Callable[[list[Level]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
