"""Files: the store, its cache, reading and writing tars."""
