"""Which provider serves a request: routes, attempts, places, circuit breakers. No I/O."""
