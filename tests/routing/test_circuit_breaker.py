"""Whether a provider may be asked."""

from __future__ import annotations

from flowserver.routing.circuit_breaker import BreakerState, CircuitBreaker


def broken(*, failures: int = 3) -> CircuitBreaker:
    """A breaker that opened at second 0, for 10 seconds."""
    health = CircuitBreaker(failures=failures, cooldown=10.0)
    for _ in range(failures):
        assert health.allows(0)
        health.failed(0, probe=health.started(0))
    return health


def test_so_many_failures_in_a_row_open_the_breaker() -> None:
    health = CircuitBreaker(failures=3, cooldown=10.0)
    for _ in range(5):
        health.failed(0, probe=False)
        health.failed(0, probe=False)
        health.succeeded()
    assert health.state(0) is BreakerState.CLOSED
    assert broken().state(0) is BreakerState.OPEN
    assert broken().opened == 1


def test_an_open_breaker_lets_nothing_through_for_its_time() -> None:
    health = broken()
    assert not health.allows(9.9)
    assert health.available_in(4) == 6
    assert health.state(10) is BreakerState.HALF_OPEN
    assert health.allows(10)


def test_one_probe_at_a_time_and_its_success_closes() -> None:
    health = broken()
    assert health.started(10)
    assert not health.allows(10)
    assert not health.started(10)
    health.succeeded()
    assert health.state(10) is BreakerState.CLOSED
    assert not health.started(10)
    assert health.allows(10)


def test_a_probe_that_fails_opens_again() -> None:
    health = broken()
    assert health.started(10)
    health.failed(12, probe=True)
    assert health.state(21) is BreakerState.OPEN
    assert health.state(22) is BreakerState.HALF_OPEN
    assert health.opened == 2


def test_a_probe_whose_client_leaves_makes_room_for_the_next() -> None:
    health = broken()
    assert health.started(10)
    health.abandoned(probe=False)
    assert not health.allows(10)
    health.abandoned(probe=True)
    assert health.allows(10)


def test_late_failures_of_earlier_requests_do_not_put_the_probe_off() -> None:
    health = broken()
    for second in range(1, 10):
        health.failed(second, probe=False)
    assert health.allows(10)
    assert health.started(10)
    health.failed(11, probe=False)
    assert not health.allows(11)
    health.succeeded()
    assert health.allows(11)
    assert health.opened == 1


def test_requests_that_one_lost_connection_ends_are_one_failure() -> None:
    health = CircuitBreaker(failures=2, cooldown=5.0)
    lost = object()
    for _ in range(10):
        health.failed(0.0, probe=False, cause=lost)
    assert health.state(0.0) is BreakerState.CLOSED
    health.failed(0.0, probe=False, cause=object())
    assert health.state(0.0) is BreakerState.OPEN


def test_its_state_shows() -> None:
    assert repr(CircuitBreaker(failures=2, cooldown=5.0)) == "<CircuitBreaker closed: 0 failures>"
    health = broken()
    assert repr(health) == "<CircuitBreaker open until 10.000: 3 failures>"
    health.started(10)
    assert repr(health) == "<CircuitBreaker open until 10.000, probing: 3 failures>"
