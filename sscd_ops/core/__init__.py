"""Pure functions: no I/O, no SQL."""
