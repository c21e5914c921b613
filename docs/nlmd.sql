-- What nlmd must know after a crash: its SQLite schema as it is now, on one page. (The steps that lead here are in
-- migrations/nlmd/.) Only nlmd writes it, and a change is on disk before nlmd makes a
-- promise that depends on it.
--
-- A blob that is named after a type is its XDR (control.x). Lists of addresses are literals with a blank between.

-- The NSM state number; one row.
CREATE TABLE server (
    only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
    nsm_state   INTEGER NOT NULL,
    boot        TEXT NOT NULL DEFAULT ''  -- the boot of this machine that the number belongs to; empty: not known
) STRICT;

-- Clients with locks, which nlmd notifies of a restart.
CREATE TABLE monitor (
    name             TEXT NOT NULL,
    address          TEXT NOT NULL,              -- the first one
    addresses        TEXT NOT NULL,
    server_addresses TEXT NOT NULL,              -- those that it called
    nsm_state        INTEGER NOT NULL,
    PRIMARY KEY (name, address)
) STRICT, WITHOUT ROWID;

-- The active run, if there is one. A row found at start is a run that the restart superseded.
CREATE TABLE active_run (
    id            BLOB PRIMARY KEY,
    mode          INTEGER NOT NULL,              -- as in control.x
    old_state     INTEGER NOT NULL,
    new_state     INTEGER NOT NULL,
    began_unix_ms INTEGER NOT NULL,
    in_scope      INTEGER NOT NULL,
    clients       BLOB NOT NULL                  -- list of RunClient
) STRICT;

-- Ended runs: the last 16, fetched or not. One that is not whole is being written or removed, page by page, or the
-- writing was cut off, or its run goes on: it is no result, and nothing of it is read.
CREATE TABLE result (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           BLOB NOT NULL UNIQUE,
    body         BLOB NOT NULL,                  -- RunResult
    whole        INTEGER NOT NULL DEFAULT 1
) STRICT;

-- The rows of ended runs.
CREATE TABLE page (
    run   BLOB NOT NULL REFERENCES result (id) ON DELETE CASCADE,
    kind  INTEGER NOT NULL,                      -- 0: ClientResult, 1: LockFate
    first INTEGER NOT NULL,                      -- the number of the first one
    rows  BLOB NOT NULL,                         -- a list of up to 1,024
    UNIQUE (run, kind, first)
) STRICT;

-- Results that no controller has fetched, or not with all late reclaims.
CREATE TABLE unfetched (
    run BLOB PRIMARY KEY REFERENCES result (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Reclaims granted after the end of a run.
CREATE TABLE late (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    run  BLOB NOT NULL REFERENCES result (id) ON DELETE CASCADE,
    fate BLOB NOT NULL                           -- LockFate
) STRICT;

CREATE INDEX late_by_run ON late (run);

-- SM_MON of this host's programs (--nsm embedded): the host to watch, and the program to call.
CREATE TABLE local_monitor (
    mon_name   TEXT NOT NULL,
    my_name    TEXT NOT NULL,
    prog       INTEGER NOT NULL,
    vers       INTEGER NOT NULL,
    proc       INTEGER NOT NULL,
    priv       BLOB NOT NULL,
    privileged INTEGER NOT NULL,
    addresses  TEXT NOT NULL,
    PRIMARY KEY (mon_name, my_name, prog, vers, proc)
) STRICT, WITHOUT ROWID;

-- Hosts that were monitored when this machine went down, or when a program sent SM_SIMU_CRASH: they are still to be notified.
CREATE TABLE to_tell (
    mon_name  TEXT NOT NULL,
    my_name   TEXT NOT NULL,
    addresses TEXT NOT NULL,
    PRIMARY KEY (mon_name, my_name)
) STRICT, WITHOUT ROWID;

-- Addresses that rpc.statd watches for nlmd (--nsm statd).
CREATE TABLE watch (
    address TEXT PRIMARY KEY,
    cookie  BLOB NOT NULL                        -- rpc.statd returns it in its notice
) STRICT, WITHOUT ROWID;

-- How many changes were committed, to compare with the file nlmd.seal: an older copy of the database is noticed.
CREATE TABLE sealed (
    only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
    commits     INTEGER NOT NULL
) STRICT;
