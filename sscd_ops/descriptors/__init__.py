"""Models: the SSCD networks, their weights, and the baseline."""
