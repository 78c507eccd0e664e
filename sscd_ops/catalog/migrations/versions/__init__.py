"""One module a revision; the SQL they run lies beside them and in ``views``."""
