"""Telemetry: metrics, the log, traces, and the admin pages."""
