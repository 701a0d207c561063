"""Secrets that are kept elsewhere: in variables, files and credentials."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowserver.config.environment import load, read_again
from flowserver.config.errors import ConfigError
from flowserver.config.file import load_topology
from flowserver.config.secrets import is_reference, path_of, resolve
from flowserver.config.settings import Config

SECRET = "sk-very-secret"
UPSTREAM = {"FLOW_UPSTREAM": "http://a.test"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "off").write_text("off\n")
    (tmp_path / "binary").write_bytes(b"sk-very-\xffsecret")
    (tmp_path / "two words").write_text("sk-very secret")
    return tmp_path


def _load(folder: Path, **settings: str) -> Config:
    environ = {"KEY": SECRET, "BAD": "sk-very secret", "CREDENTIALS_DIRECTORY": str(folder)}
    return load(UPSTREAM | environ | settings)


# --- references ---


def test_the_three_places(folder: Path) -> None:
    environ = {"KEY": SECRET, "CREDENTIALS_DIRECTORY": str(folder)}
    for reference in ("env:KEY", "file:key", f"file:{folder}/key", "credential:key"):
        assert is_reference(reference)
        assert resolve(reference, environ, folder) == SECRET


@pytest.mark.parametrize("literal", [SECRET, "", "redis://127.0.0.1", "unix:/run/redis", "Bearer env:KEY", "ENV:KEY"])
def test_a_literal_stays_literal(literal: str) -> None:
    assert not is_reference(literal)
    assert resolve(literal, {}, Path()) == literal


def test_a_path_may_be_a_credential_s(folder: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": "/run/credentials/a.service"}
    assert path_of("credential:b.toml", environ) == "/run/credentials/a.service/b.toml"
    assert path_of("/etc/b.toml", environ) == "/etc/b.toml"
    assert path_of("", environ) == ""


# --- settings ---


@pytest.mark.parametrize("place", ["env:KEY", "file:{}/key", "credential:key", SECRET])
def test_a_setting_has_what_it_refers_to(folder: Path, place: str) -> None:
    config = _load(folder, FLOW_UPSTREAM_API_KEY=place.format(folder))
    assert config.upstream_api_key == SECRET
    [spec] = load_topology(config, {}).upstreams
    assert spec.api_key == SECRET
    assert SECRET not in repr(config)


def test_redis_may_be_kept_elsewhere(folder: Path) -> None:
    (folder / "redis").write_text("redis://:password@127.0.0.1/1\n")
    assert _load(folder, FLOW_REDIS_URL="credential:redis").redis_url == "redis://:password@127.0.0.1/1"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("env:MISSING", "the variable MISSING is not set; set it, or name another one"),
        ("env:", "expected 'env:NAME', where NAME is a variable's name"),
        (f"env:{SECRET}", "expected 'env:NAME', where NAME is a variable's name"),
        ("file:", "expected 'env:NAME', 'file:PATH' or 'credential:NAME'"),
        (
            "file:{}/missing",
            "the file {}/missing can't be read: No such file or directory; create it, or name another one",
        ),
        ("file:{}", "the file {} can't be read: Is a directory; create it, or name another one"),
        ("file:{}/empty", "the file {}/empty is empty"),
        ("file:{}/binary", "the file {}/binary can't be read: it is not UTF-8"),
        ("file:{}/off", "file:{}/off: its value is only `off`; if that is intended, leave the setting empty"),
        ("env:BAD", "env:BAD: invalid value: expected a key in printable ASCII without spaces"),
        (
            "credential:missing",
            "the credential missing can't be read: No such file or directory; see LoadCredential in systemd.exec(5)",
        ),
        ("credential:", "expected 'credential:NAME', where NAME is not a path"),
        ("credential:../key", "expected 'credential:NAME', where NAME is not a path"),
        ("credential:..", "expected 'credential:NAME', where NAME is not a path"),
    ],
)
def test_a_missing_secret_is_told_by_its_place(folder: Path, place: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(folder, FLOW_UPSTREAM_API_KEY=place.format(folder))
    assert caught.value.problems == [f"FLOW_UPSTREAM_API_KEY: {told.format(folder)}"]


def test_without_systemd_there_are_no_credentials() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"FLOW_CONFIG": "credential:flow.toml"})
    [problem] = caught.value.problems
    assert problem.startswith("FLOW_CONFIG: there is no credential flow.toml, as CREDENTIALS_DIRECTORY is not set; ")


def test_a_reload_reads_it_again(folder: Path) -> None:
    config = _load(folder, FLOW_UPSTREAM_API_KEY=f"file:{folder}/key")
    (folder / "key").write_text("another")
    assert read_again(config, {}).upstream_api_key == "another"
    (folder / "key").unlink()
    with pytest.raises(ConfigError, match=r"FLOW_UPSTREAM_API_KEY: the file .*/key can't be read"):
        read_again(config, {})
    assert read_again(_load(folder, FLOW_UPSTREAM_API_KEY=SECRET), {}).upstream_api_key == SECRET


# --- the TOML file ---


def test_the_file_and_its_secrets_may_be_credentials(folder: Path) -> None:
    text = """
        [[upstreams]]
        name = "a"
        url = "http://a.test"
        api_key = "credential:key"
        headers = { x-one = "file:key", x-two = "env:KEY", x-three = "as it is" }
    """
    (folder / "flow.toml").write_text(text)
    environ = {"KEY": "variable", "CREDENTIALS_DIRECTORY": str(folder)}
    config = load({"FLOW_CONFIG": "credential:flow.toml", **environ})
    [spec] = load_topology(config, environ).upstreams
    assert spec.api_key == SECRET
    assert spec.headers == (("x-one", SECRET), ("x-two", "variable"), ("x-three", "as it is"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('api_key = "credential:none"', "api_key: the credential none can't be read: No such file or directory; "),
        ('headers = { x = "env:NONE" }', "headers: the variable NONE is not set"),
        ('headers = { x = "file:lines" }', "headers: the value of 'x' contains characters that are not allowed in a "),
    ],
)
def test_its_mistakes_have_their_place(folder: Path, line: str, told: str) -> None:
    (folder / "lines").write_text(f"{SECRET}\n{SECRET}")
    file = folder / "flow.toml"
    file.write_text(f'[[upstreams]]\nname = "a"\nurl = "http://a.test"\n{line}')
    with pytest.raises(ConfigError) as caught:
        load_topology(load({"FLOW_CONFIG": str(file)}), {"CREDENTIALS_DIRECTORY": str(folder)})
    [problem] = caught.value.problems
    assert problem.startswith(f"{file}: upstreams[0].{told}")
    assert SECRET not in problem


def test_a_file_that_may_not_be_read_is_told(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / "key").chmod(0)
    with pytest.raises(ConfigError, match="can't be read: Permission denied"):
        _load(folder, FLOW_UPSTREAM_API_KEY=f"file:{folder}/key")
