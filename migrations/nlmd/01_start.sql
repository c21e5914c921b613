-- What nlmd must know after a crash. One database, one writer (src/lockd/persist).

-- The NSM state number; one row.
CREATE TABLE server (
    only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
    nsm_state   INTEGER NOT NULL
) STRICT;

-- Whom to tell of a restart. Addresses are literals with a blank between, the first one is the key.
CREATE TABLE monitor (
    name             TEXT NOT NULL,
    address          TEXT NOT NULL,
    addresses        TEXT NOT NULL,
    server_addresses TEXT NOT NULL,
    nsm_state        INTEGER NOT NULL,
    PRIMARY KEY (name, address)
) STRICT, WITHOUT ROWID;

-- The active run, if any. A row found at start is a run that the restart superseded.
CREATE TABLE active_run (
    id            BLOB PRIMARY KEY,
    mode          INTEGER NOT NULL,
    old_state     INTEGER NOT NULL,
    new_state     INTEGER NOT NULL,
    began_unix_ms INTEGER NOT NULL,
    in_scope      INTEGER NOT NULL,
    clients       BLOB NOT NULL
) STRICT;

-- Ended runs: FullResult as XDR (src/wire/control/result.rs).
CREATE TABLE result (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           BLOB NOT NULL UNIQUE,
    body         BLOB NOT NULL,
    acknowledged INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Reclaims granted after the end of a run: LockFate as XDR.
CREATE TABLE late (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    run  BLOB NOT NULL REFERENCES result (id) ON DELETE CASCADE,
    fate BLOB NOT NULL
) STRICT;
CREATE INDEX late_by_run ON late (run);
