"""The steps of a night. Each has a ``run`` and a report."""
