"""How well a model finds copies: metrics, made copies, known layouts, reports. No step uses it."""
