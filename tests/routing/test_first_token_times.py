"""What is known of a provider's first tokens, by a plain reading of the latest ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowserver.routing.first_token_times import ENOUGH, MAX_AGE, MOST_MODELS, WINDOW, FirstTokenTimes, TimesOfModel


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 5)), min_size=ENOUGH, max_size=3 * WINDOW),
    st.sampled_from([0.5, 0.95]),
)
def test_the_quantile_is_that_of_the_latest_times(noted: list[tuple[float, float]], share: float) -> None:
    times, now = TimesOfModel(), 0.0
    kept: list[tuple[float, float]] = []
    for seconds, later in noted:
        now += later
        times.note(seconds, now)
        kept = [(at, each) for at, each in [*kept, (now, seconds)][-WINDOW:] if now - at <= MAX_AGE]
    assert times.known == len(kept)
    late = times.quantile(share, now)
    if len(kept) < ENOUGH:
        assert late is None
        return
    assert late is not None
    faster = sum(seconds < late for _, seconds in kept)
    not_slower = sum(seconds <= late for _, seconds in kept)
    assert faster <= share * len(kept) <= not_slower


def test_what_is_old_is_forgotten() -> None:
    times = TimesOfModel()
    for _ in range(ENOUGH):
        times.note(1.0, 0.0)
    assert times.quantile(0.95, MAX_AGE) == 1.0
    assert times.quantile(0.95, MAX_AGE + 1) is None
    assert times.known == 0


def test_it_follows_a_change() -> None:
    times = TimesOfModel()
    for seconds in (1.0, 9.0):
        for _ in range(WINDOW):
            times.note(seconds, 0.0)
    assert times.quantile(0.5, 0.0) == 9.0


def test_models_are_told_apart_and_bounded() -> None:
    times = FirstTokenTimes()
    first = times.of("m0")
    first.note(1.0, 0.0)
    assert times.of("m0") is first
    assert times.of(None) is not first
    for number in range(1, MOST_MODELS + 1):
        times.of(f"m{number}")
    assert times.of("m0") is not first
