"""The PEM files of the TLS configuration: which one is wrong, and how to fix it.

OpenSSL's own messages name neither the file nor what is wrong with it.
"""

from __future__ import annotations

from pathlib import Path

from ..config.secrets import remedy_of
from ..config.settings import Config

_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_PRIVATE_KEY = "PRIVATE KEY-----"


def problems_of(config: Config) -> list[str]:
    """A message for each of the listener's files that can't be used, without checking whether they match."""
    texts: dict[str, str] = {}
    problems = []
    for setting, path in (
        ("FLOW_TLS_CERT", config.tls_cert),
        ("FLOW_TLS_KEY", config.tls_key),
        ("FLOW_TLS_CLIENT_CA", config.tls_client_ca),
    ):
        if path is None:
            continue
        text, problem = read_pem(path)
        texts[setting] = text
        if problem:
            problems.append(f"{setting}: {problem}")
    return problems or [*_wrong_kinds(texts, config)]


def read_pem(path: str) -> tuple[str, str]:
    """The content of a file, and why it can't be read; one of them is empty."""
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        return "", f"{path} can't be read: {error.strerror}; {remedy_of(error)}"
    return (text, "") if text.strip() else ("", f"{path} is empty; write the PEM there, or name another file")


def without_certificate(path: str, text: str) -> str:
    """What is wrong with a file that must contain a certificate; empty: it contains one."""
    if _CERTIFICATE in text:
        return ""
    if _PRIVATE_KEY in text:
        return f"{path} contains a private key and no certificate; are the two files swapped?"
    return f"{path} contains no certificate in PEM; convert one in DER with: openssl x509 -inform DER -in {path}"


def _wrong_kinds(texts: dict[str, str], config: Config) -> list[str]:
    problems = []
    for setting, path in (("FLOW_TLS_CERT", config.tls_cert), ("FLOW_TLS_CLIENT_CA", config.tls_client_ca)):
        if path is not None and (problem := without_certificate(path, texts[setting])):
            problems.append(f"{setting}: {problem}")
    key, path = texts.get("FLOW_TLS_KEY", _PRIVATE_KEY), config.tls_key
    if _PRIVATE_KEY not in key:
        problems.append(f"FLOW_TLS_KEY: {path} contains no private key in PEM; name the file that does")
    elif "ENCRYPTED" in key:
        remedy = f"write it without one: openssl pkey -in {path} -out NEW_FILE"
        problems.append(f"FLOW_TLS_KEY: {path} is protected by a password, which the relay cannot enter; {remedy}")
    return problems
