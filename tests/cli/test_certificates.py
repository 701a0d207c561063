"""When a certificate expires, read from its DER."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from flowserver.cli.certificates import SOON, certificates_advice, valid_until, validity
from flowserver.config.environment import load

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
AUTHORITY = trustme.CA()


def pem(begin: datetime, end: datetime) -> str:
    issued = AUTHORITY.issue_cert("a.test", not_before=begin, not_after=end)
    return "".join(blob.bytes().decode() for blob in issued.cert_chain_pems)


@pytest.mark.parametrize(
    "end",
    [
        datetime(2026, 3, 5, tzinfo=UTC),
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2051, 1, 2, tzinfo=UTC),
    ],
)
@pytest.mark.parametrize("begin", [datetime(1999, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC)])
def test_from_when_to_when(begin: datetime, end: datetime) -> None:
    """From 2050 on, a time is written in another way."""
    assert validity(pem(begin, end)) == (begin.timestamp(), end.timestamp())


@pytest.mark.parametrize(
    "text", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "-----BEGIN CERTIFICATE-----"]
)
def test_what_is_no_certificate(text: str) -> None:
    with pytest.raises(ValueError, match="certificate"):
        validity(text)
    assert valid_until(b"0") == "an unknown day"


@pytest.mark.parametrize(
    ("begin", "end", "told"),
    [
        (-10, -1, "expired on 2026-03-03"),
        (1, 10, "is not valid before 2026-03-05"),
        (-10, 10, "expires on 2026-03-14"),
        (-10, SOON / 86400 + 1, ""),
    ],
)
def test_what_is_told_of_it(tmp_path: Path, begin: float, end: float, told: str) -> None:
    file = tmp_path / "a.pem"
    file.write_text(pem(NOW + timedelta(days=begin), NOW + timedelta(days=end)))
    lines = certificates_advice(load({"FLOW_TLS_CERT": str(file), "FLOW_TLS_KEY": "b"}), NOW.timestamp())
    assert len(lines) == (1 if told else 0)
    assert told in "".join(lines)
