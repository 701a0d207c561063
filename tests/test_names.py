"""Names from outside, in bounded sizes."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.names import MODEL_BYTES, USER_BYTES, bounded, hashed, model_name, user_name

LONG = "m" * 10**6
TEXTS = st.text(st.characters(codec=None), max_size=400)
"""With lone surrogates."""


@pytest.mark.parametrize("text", ["", "m", "m" * 256, "\N{SNOWMAN}" * 85, "\U0001f600" * 64, "a\r\nb\0"])
def test_a_name_that_fits_stays_as_it_is(text: str) -> None:
    assert bounded(text, MODEL_BYTES) == text


def test_a_long_name_keeps_its_beginning_and_has_its_hash() -> None:
    assert bounded(LONG, MODEL_BYTES) == "m" * 191 + "#" + sha256(LONG.encode()).hexdigest()
    assert hashed(LONG, USER_BYTES) == "#" + sha256(LONG.encode()).hexdigest()[:32]
    assert hashed("u" * 64, USER_BYTES) == "u" * 64


@pytest.mark.parametrize("shift", range(4))
def test_a_character_is_never_cut(shift: int) -> None:
    beginning, _, _ = bounded("m" * shift + "\U0001f600" * 1000, MODEL_BYTES).partition("#")
    assert beginning == "m" * shift + "\U0001f600" * ((191 - shift) // 4)


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "\ud83d" * 300, "m" * 300 + "\ud800"])
def test_a_lone_surrogate_becomes_part_of_the_hash(name: str) -> None:
    for made in (bounded(name, MODEL_BYTES), hashed(name, USER_BYTES)):
        assert "#" in made
        assert made.encode()


@given(TEXTS, TEXTS, st.integers(65, 300))
def test_any_name_fits_and_stays_apart_from_others(first: str, second: str, most: int) -> None:
    for make in (bounded, hashed):
        made = make(first, most)
        assert len(made.encode()) <= most
        assert make(made, most) == made
        assert (made == make(second, most)) == (first == second) or first == make(second, most)


@pytest.mark.parametrize("value", [None, "", 1, True, ["m"], {"m": 1}, b"m"])
def test_what_is_no_text_is_no_name(value: object) -> None:
    assert model_name(value) is None
    assert user_name(value) is None


def test_models_and_users_have_their_bounds() -> None:
    assert model_name("m" * 256) == "m" * 256
    assert len(model_name("m" * 257) or "") == 256
    assert user_name("u" * 64) == "u" * 64
    assert len(user_name("u" * 65) or "") == 33
