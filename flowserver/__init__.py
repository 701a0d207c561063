"""flowserver: an edge relay for LLM token streams whose backpressure reaches the provider."""

__version__ = "0.1.0"
