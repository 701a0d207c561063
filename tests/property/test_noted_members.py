"""Members whose places are noted are found wherever they stand, however the body came, and whatever else is read."""

from __future__ import annotations

import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from flowserver.json_text.members import COUNT, SPAN, JsonMembers, Reads
from tests.support.scanning import pieces

READS = Reads({"scalar": None, "inner": Reads({"a": None}), "count": COUNT, "span": SPAN})
NAMES = ("scalar", "inner", "count", "span", "other", "more")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "other", "é"]), inner),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from([*NAMES, "x", "long"]), VALUES | st.text(min_size=300, max_size=400))


@given(BODIES, st.booleans(), st.lists(st.integers(0, 900)))
def test_they_are_where_their_values_are(body: dict[str, Any], spaced: bool, cuts: list[int]) -> None:
    text = json.dumps(body, indent=2).encode() if spaced else orjson.dumps(body)
    found, plain = JsonMembers(READS.noting(NAMES)), JsonMembers(READS)
    for piece in pieces(text, cuts):
        found.feed(piece)
        plain.feed(piece)
    found.finish()
    plain.finish()
    assert found.problem is plain.problem is None
    assert found.values == plain.values, "noting changes nothing else"
    assert found.members == plain.members
    noted = {name.decode(): orjson.loads(text[at.start : at.end]) for name, at in found.noted.items()}
    assert noted == {name: value for name, value in body.items() if name in NAMES}
    assert not plain.noted
