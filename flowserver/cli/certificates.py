"""Warns of certificates that expire: the relay serves them all the same, but clients refuse them."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from ..config.settings import Config

SOON = 14 * 86400.0
"""Seconds before the end from which on to warn."""

_SEQUENCE = 0x30
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


def certificates_advice(config: Config, now: float) -> list[str]:
    """Warnings about the relay's own certificate. `now`: seconds since the epoch."""
    if config.tls_cert is None:
        return []
    try:
        begin, end = validity(Path(config.tls_cert).read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError):
        return []
    place = f"FLOW_TLS_CERT: {config.tls_cert}"
    if now > end:
        return [f"{place} expired on {_day(end)}, so clients refuse it; renew it, then send SIGHUP"]
    if now < begin:
        return [f"{place} is not valid before {_day(begin)}, so clients refuse it; is the clock right?"]
    return [f"{place} expires on {_day(end)}; renew it, then send SIGHUP"] if end - now < SOON else []


def validity(pem: str) -> tuple[float, float]:
    """The begin and end of validity of the first certificate of a PEM file, in seconds since the epoch (RFC 5280
    section 4.1). Raises ValueError."""
    match = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem, re.DOTALL)
    if match is None:
        raise ValueError("no certificate")
    return _validity(ssl.PEM_cert_to_DER_cert(match[0]))


def valid_until(der: bytes) -> str:
    """The day on which a certificate expires."""
    try:
        return _day(_validity(der)[1])
    except ValueError:
        return "an unknown day"


def _validity(der: bytes) -> tuple[float, float]:
    try:
        _, certificate, _ = _element(der)
        _, fields, _ = _element(certificate)
        while fields:
            kind, content, fields = _element(fields)
            if kind == _SEQUENCE and content[:1] and content[0] in (_UTC_TIME, _GENERALIZED_TIME):
                first, begin, rest = _element(content)
                second, end, _ = _element(rest)
                return _moment(first, begin), _moment(second, end)
    except IndexError:
        pass
    raise ValueError("no certificate in DER")


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """The tag and content of the first element of DER (X.690 section 8.1), and what follows it."""
    length, at = data[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(data[2:at], "big")
    return data[0], data[at : at + length], data[at + length :]


def _moment(kind: int, content: bytes) -> float:
    text = content.decode("ascii")
    if kind == _UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
