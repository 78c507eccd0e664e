"""Segments, kept masks and search backends: the only room that imports FAISS."""
