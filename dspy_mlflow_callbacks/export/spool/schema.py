"""The tables of the spool."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS traces (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id TEXT NOT NULL,
    destination TEXT NOT NULL,
    ended REAL NOT NULL,
    spans INTEGER NOT NULL,
    request BLOB NOT NULL,
    extra TEXT NOT NULL,
    size INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    leased REAL NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS traces_waiting ON traces (destination, attempts, id) WHERE owner IS NULL;
CREATE INDEX IF NOT EXISTS traces_owned ON traces (owner) WHERE owner IS NOT NULL;
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id TEXT NOT NULL,
    destination TEXT NOT NULL,
    ended REAL NOT NULL,
    spans INTEGER NOT NULL,
    request BLOB NOT NULL,
    extra TEXT NOT NULL,
    size INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    reason TEXT NOT NULL
);
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
"""
