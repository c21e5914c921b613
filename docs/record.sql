-- The record of nlmctl: its SQLite schema as it is now, on one page. (`nlmctl runs export` is the stable way to read it; tables
-- may change with a version. The steps that lead here are in migrations/.)
--
-- Times that end in _ms are milliseconds since 1970 (UTC) unless a comment says otherwise. A blob is the XDR of a type of
-- control.x (nlmctl-control(7)). The words of phase, outcome, fate, delivery and probe are those of the JSON. The counts of a
-- run and of a client are those of its report.

-- One row for each run. It exists before the lock manager is asked anything, and `phase` is on disk before the step that
-- it announces: after a crash it says how far the run can have come.
CREATE TABLE run (
    number          INTEGER PRIMARY KEY,         -- the newest has the highest
    id              TEXT NOT NULL UNIQUE,        -- UUID
    manager         TEXT NOT NULL,               -- nlmd
    endpoint        TEXT NOT NULL,               -- where it is driven: its control socket
    instance        TEXT NOT NULL,               -- UUID of the manager's life
    knows_owners    INTEGER NOT NULL,            -- 0: the manager does not know who owns a lock, and clients have no counts
    fingerprint     TEXT NOT NULL,               -- of the plan that the operator agreed to
    mode            TEXT NOT NULL,
    scope           TEXT NOT NULL,               -- JSON, as it was asked for
    names           TEXT NOT NULL,               -- JSON: the names that its notices carried
    begin           BLOB NOT NULL,               -- BeginArgs: with it, begin can be called again
    phase           TEXT NOT NULL,
    outcome         TEXT,                        -- NULL until the run has ended
    reason          TEXT,
    exit            INTEGER,
    not_understood  INTEGER NOT NULL DEFAULT 0,
    alone           INTEGER NOT NULL DEFAULT 0,  -- 1: the manager settled without nlmctl
    old_state       INTEGER,
    new_state       INTEGER,
    started_ms      INTEGER NOT NULL,
    ended_ms        INTEGER,
    unmonitored     INTEGER NOT NULL DEFAULT 0,
    in_scope        INTEGER NOT NULL DEFAULT 0,
    pending         INTEGER NOT NULL DEFAULT 0,
    reclaimed       INTEGER NOT NULL DEFAULT 0,
    released        INTEGER NOT NULL DEFAULT 0,
    dropped         INTEGER NOT NULL DEFAULT 0,
    kept            INTEGER NOT NULL DEFAULT 0,
    unverified      INTEGER NOT NULL DEFAULT 0,
    resurrected     INTEGER NOT NULL DEFAULT 0,
    conflicts       INTEGER NOT NULL DEFAULT 0,
    late            INTEGER NOT NULL DEFAULT 0,
    locks_listed    INTEGER NOT NULL DEFAULT 1   -- 0: the manager could not list its locks, and the counts leave them out
) STRICT;

-- The clients of a run, and the fate of each.
CREATE TABLE client (
    run             INTEGER NOT NULL REFERENCES run (number) ON DELETE CASCADE,
    number          INTEGER NOT NULL,            -- its number in the run
    name            TEXT NOT NULL,
    address         TEXT,                        -- the first one
    row             BLOB NOT NULL,               -- RunClient: addresses, server addresses, ...
    suspect         INTEGER NOT NULL,
    probe           TEXT NOT NULL,
    delivery        TEXT NOT NULL DEFAULT 'not-told',
    silent          INTEGER NOT NULL DEFAULT 0,
    notices         INTEGER NOT NULL DEFAULT 0,  -- server addresses, each under each name
    acks            INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,
    acked_ms        INTEGER,                     -- since begin
    error           TEXT,
    paths           TEXT NOT NULL DEFAULT '[]',  -- JSON as nlmctl prints it: what was pending at settle
    in_scope        INTEGER NOT NULL DEFAULT 0,
    pending         INTEGER NOT NULL DEFAULT 0,
    reclaimed       INTEGER NOT NULL DEFAULT 0,
    released        INTEGER NOT NULL DEFAULT 0,
    dropped         INTEGER NOT NULL DEFAULT 0,
    kept            INTEGER NOT NULL DEFAULT 0,
    unverified      INTEGER NOT NULL DEFAULT 0,
    resurrected     INTEGER NOT NULL DEFAULT 0,
    conflicts       INTEGER NOT NULL DEFAULT 0,
    understood      INTEGER NOT NULL DEFAULT 0,  -- 1: it reclaimed as a notice makes a client do
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

-- Locks of a run, as `resync --record` says: those that a run changed, or all.
CREATE TABLE lock (
    place           INTEGER PRIMARY KEY,         -- the run's number << 33 | the lock's place in the manager's result
    fate            TEXT NOT NULL,
    row             BLOB NOT NULL                -- LockFate
) STRICT;

-- What happened in the course of a run.
CREATE TABLE event (
    run             INTEGER NOT NULL REFERENCES run (number) ON DELETE CASCADE,
    at_ms           INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    detail          TEXT NOT NULL
) STRICT;

-- How many locks were pending in the course of a run, for the drawing of `runs report`.
CREATE TABLE progress (
    run             INTEGER NOT NULL REFERENCES run (number) ON DELETE CASCADE,
    elapsed_ms      INTEGER NOT NULL,            -- since begin
    pending         INTEGER NOT NULL,
    PRIMARY KEY (run, elapsed_ms)
) STRICT, WITHOUT ROWID;

CREATE INDEX run_started ON run (started_ms);
CREATE INDEX run_unfinished ON run (started_ms) WHERE phase <> 'done';
CREATE INDEX client_understood ON client (name, address) WHERE understood = 1;
CREATE INDEX event_run ON event (run, at_ms);

-- Does what a foreign key does for the other tables. A foreign key would need an index of its own here.
CREATE TRIGGER run_locks AFTER DELETE ON run BEGIN
    DELETE FROM lock WHERE place BETWEEN old.number << 33 AND ((old.number + 1) << 33) - 1;
END;

-- One row for each `nlmctl release`. It exists before the lock manager is asked.
CREATE TABLE release (
    id              TEXT PRIMARY KEY,            -- UUID
    manager         TEXT NOT NULL,
    endpoint        TEXT NOT NULL,
    instance        TEXT NOT NULL,               -- UUID of the manager's life
    scope           TEXT NOT NULL,               -- JSON, as it was asked for
    asked_ms        INTEGER NOT NULL,
    ended_ms        INTEGER,                     -- NULL until the lock manager has answered
    outcome         TEXT NOT NULL,               -- unverified until then
    locks           INTEGER NOT NULL DEFAULT 0,
    waiters         INTEGER NOT NULL DEFAULT 0,
    left_over       INTEGER NOT NULL DEFAULT 0,
    report          TEXT NOT NULL                -- JSON as nlmctl prints it: clients, locks, what was seen
) STRICT;

CREATE INDEX release_asked ON release (asked_ms);

-- What a round of `nlmctl reconcile` remembers about a client for the next round.
CREATE TABLE reconcile (
    endpoint        TEXT NOT NULL,               -- of the lock manager
    name            TEXT NOT NULL,
    address         TEXT NOT NULL,               -- the first one
    baseline        INTEGER NOT NULL,            -- its statd's number when there was no evidence against it; 0: none
    differed        INTEGER NOT NULL,            -- the number that was evidence in the last round that the client answered; 0: none
    rounds          INTEGER NOT NULL,            -- in a row that found evidence
    examined        INTEGER NOT NULL,            -- the newest number that a run has examined; 0: none
    complaints      TEXT NOT NULL,               -- JSON: complaints of the lock manager that the last run has examined
    runs            INTEGER NOT NULL,            -- in a row after which evidence was left
    not_before_ms   INTEGER NOT NULL,            -- the next run, unless there is news
    PRIMARY KEY (endpoint, name, address)
) STRICT, WITHOUT ROWID;
