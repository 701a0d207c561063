"""The groups of settings, in the reference and in help. No I/O."""

from __future__ import annotations

from .entries import Group

LISTENERS = Group("Listeners")
PROVIDERS = Group(
    "Providers", "Several providers, routes and tenants go into a file, see [providers.md](providers.md)."
)
PROVIDER_TIMEOUTS = Group("Provider connections and timeouts")
CLIENTS = Group("Client connections and timeouts")
UPLOADS = Group("Request bodies")
MEMORY = Group("Memory", "See [memory](operating.md#memory).")
BACKPRESSURE = Group("Backpressure", "See [choosing watermarks](operating.md#choosing-watermarks).")
TOKENS = Group("Tokens", "See [tokens.md](tokens.md).")
LEAVING = Group("Clients that leave, providers that are silent")
RETRIES = Group("Retries and circuit breaker", "See [providers.md](providers.md#retries-and-fallback).")
LIMITS = Group("Limits of tenants", "See [tenants.md](tenants.md).")
OVERLOAD = Group("Overload", "See [operating.md](operating.md#more-requests-than-it-can-serve).")
HTTP2 = Group("HTTP/2 with clients")
FLOODS = Group(
    "HTTP/2 floods",
    "A client connection that exceeds one of these is closed with GOAWAY ENHANCE_YOUR_CALM. Counts decay over ten "
    "seconds.",
)
OPERATION = Group("Operation")
TRACES = Group(
    "Traces",
    "See [operating.md](operating.md#traces). Of OpenTelemetry's own variables, `OTEL_SERVICE_NAME` and "
    "`OTEL_RESOURCE_ATTRIBUTES` set the resource attributes.",
)
