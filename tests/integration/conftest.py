"""Tests here use a real Postgres (fixtures in ../conftest.py)."""
