"""Header checks, decoding, decoder processes."""
