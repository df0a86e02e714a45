"""The tables of the spool.

The large columns stand last: SQLite keeps what comes after them on other pages, and a search does not go there. There
is no index: a search goes through what waits, some milliseconds, once for a batch; a damaged index would hide traces.
"""

_COLUMNS = """
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id TEXT NOT NULL,
    destination TEXT NOT NULL,
    ended REAL NOT NULL,
    spans INTEGER NOT NULL,
    size INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
"""
_CONTENT = """
    extra TEXT NOT NULL,
    request BLOB NOT NULL
"""

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS traces ({_COLUMNS}
    attempts INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    leased REAL NOT NULL DEFAULT 0,
    {_CONTENT});
CREATE TABLE IF NOT EXISTS dead_letters ({_COLUMNS}
    reason TEXT NOT NULL,
    {_CONTENT});
CREATE TABLE IF NOT EXISTS counts (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO counts VALUES ('bytes', 0), ('dropped', 0), ('expired', 0), ('damaged', 0);
CREATE TRIGGER IF NOT EXISTS traces_in AFTER INSERT ON traces
    BEGIN UPDATE counts SET value = value + NEW.size WHERE name = 'bytes'; END;
CREATE TRIGGER IF NOT EXISTS traces_out AFTER DELETE ON traces
    BEGIN UPDATE counts SET value = value - OLD.size WHERE name = 'bytes'; END;
CREATE TRIGGER IF NOT EXISTS dead_letters_in AFTER INSERT ON dead_letters
    BEGIN UPDATE counts SET value = value + NEW.size WHERE name = 'bytes'; END;
CREATE TRIGGER IF NOT EXISTS dead_letters_out AFTER DELETE ON dead_letters
    BEGIN UPDATE counts SET value = value - OLD.size WHERE name = 'bytes'; END;
"""  # noqa: S608  (both parts stand above)
