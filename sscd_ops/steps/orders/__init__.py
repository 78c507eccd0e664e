"""Orders: what people decide."""
