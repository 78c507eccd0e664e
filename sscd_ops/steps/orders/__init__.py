"""What people order about data, and what becomes of it."""
