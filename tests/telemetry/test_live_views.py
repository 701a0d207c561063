"""What viewers of the live feed may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.telemetry.live_views import (
    MOST_ROWS,
    SORTS,
    BadView,
    View,
    is_once,
    question_of,
    view_of,
    views_of,
)


def test_nothing_asked_is_the_view_that_shows_trouble_first() -> None:
    assert view_of(b"/live") == view_of(b"/live?once") == View()
    assert (View().sort, View().descending) == ("trouble", True)


def test_all_can_be_asked_for() -> None:
    view = view_of(b"/live?limit=7&sort=tokens&filter=Slow:Client%20acme&follow=a%2Fb")
    assert view == View(7, "tokens", descending=False, words=("slow:client", "acme"), follow="a/b")
    assert view_of(b"/live?sort=-tokens").descending


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (b"sort=size", "sort: expected one of trouble, "),
        (b"sort=--tokens", "sort: expected"),
        (b"limit=-1", "limit: expected a number from 0 to 500"),
        (b"limit=501", "limit: "),
        (b"limit=1e2", "limit: "),
        (b"limit=" + b"9" * 100, "limit: "),
        (b"filter=" + b"a+" * 9, "filter: expected at most 8 words"),
        (b"filter=" + b"a" * 201, "filter: "),
        (b"follow=" + b"a" * 201, "follow: "),
    ],
)
def test_what_makes_no_sense_is_named(query: bytes, said: str) -> None:
    with pytest.raises(BadView, match=said):
        view_of(b"/live?" + query)


def test_once_is_asked_for_by_its_name() -> None:
    assert is_once(b"/live?once")
    assert is_once(b"/live?sort=tokens&once=1")
    assert not is_once(b"/live?filter=once")
    assert not is_once(b"/live")


@given(
    st.lists(
        st.builds(
            View,
            st.integers(0, MOST_ROWS),
            st.sampled_from(sorted(SORTS)),
            st.booleans(),
            st.lists(st.text(min_size=1, max_size=9).filter(str.isprintable), max_size=3).map(tuple),
            st.text(max_size=9).filter(str.isprintable),
        )
    )
)
def test_workers_are_asked_for_the_same_views(views: list[View]) -> None:
    question = question_of(views)
    assert b"\n" not in question
    assert views_of(question) == views


@given(st.binary(max_size=60))
def test_any_query_is_a_view_or_refused(query: bytes) -> None:
    try:
        view = view_of(b"/live?" + query)
    except BadView:
        return
    assert views_of(question_of([view])) == [view]
