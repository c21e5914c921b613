-- Locks that were freed by `nlmctl release`. A row is there before the lock manager is asked.

CREATE TABLE release (
    id              TEXT PRIMARY KEY,            -- UUID
    manager         TEXT NOT NULL,
    endpoint        TEXT NOT NULL,
    instance        TEXT NOT NULL,               -- UUID of the manager's life
    scope           TEXT NOT NULL,               -- JSON, as it was asked for
    asked_ms        INTEGER NOT NULL,
    ended_ms        INTEGER,                     -- NULL until its answer is here
    outcome         TEXT NOT NULL,               -- unverified until then
    locks           INTEGER NOT NULL DEFAULT 0,
    waiters         INTEGER NOT NULL DEFAULT 0,
    left_over       INTEGER NOT NULL DEFAULT 0,
    report          TEXT NOT NULL                -- JSON as nlmctl prints it: clients, locks, what was seen
) STRICT;
CREATE INDEX release_asked ON release (asked_ms);
