"""Where the events of a passing stream begin and end. No I/O."""
