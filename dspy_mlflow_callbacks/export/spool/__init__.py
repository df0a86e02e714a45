"""The spool: a SQLite database of traces that no store has taken yet, shared by all processes with its folder."""
