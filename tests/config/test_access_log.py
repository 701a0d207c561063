from __future__ import annotations

import pytest

from flowserver.config.access_log import AccessLog, Logged, parse_access_log


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("on", AccessLog(Logged.ON)),
        (" OFF ", AccessLog(Logged.OFF)),
        ("errors", AccessLog(Logged.ERRORS)),
        ("sample:0.01", AccessLog(Logged.ERRORS, 0.01)),
        ("sample:1", AccessLog(Logged.ERRORS, 1.0)),
        ("sample:.5", AccessLog(Logged.ERRORS, 0.5)),
    ],
)
def test_words_and_shares_are_read(text: str, found: AccessLog) -> None:
    assert parse_access_log(text) == found


@pytest.mark.parametrize(
    "text", ["", "true", "sample", "sample:", "sample:0", "sample:1.5", "sample:-1", "sample:nan", "0"]
)
def test_anything_else_says_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"on, errors, off, or sample"):
        parse_access_log(text)
