"""The ``sscd-ops`` command."""
