"""Settings of the environment and of the file, parsed and checked."""
