"""Nightly curation of image-text data: find copies with SSCD, keep one, say why."""

__version__ = "0.1.0"
