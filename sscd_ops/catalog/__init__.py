"""The only SQL: tables, queries, migrations, views (docs/catalog.md)."""
