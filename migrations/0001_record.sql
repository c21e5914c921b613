-- The record of nlmctl. Times are milliseconds since 1970 (UTC). A blob is the named type of
-- control.x in XDR. The words of phase, outcome, fate, delivery and probe are those of the JSON.

PRAGMA application_id = 0x6e6c6d63; -- "nlmc"

CREATE TABLE run (
    id              TEXT PRIMARY KEY,            -- UUID
    manager         TEXT NOT NULL,               -- nlmd
    endpoint        TEXT NOT NULL,               -- where it is driven: its control socket
    instance        TEXT NOT NULL,               -- UUID of the manager's life
    fingerprint     TEXT NOT NULL,               -- of the plan that was consented to
    mode            TEXT NOT NULL,
    scope           TEXT NOT NULL,               -- JSON, as it was asked for
    begin           BLOB NOT NULL,               -- BeginArgs: begin can be asked again with it
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
    late            INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX run_started ON run (started_ms);
CREATE INDEX run_unfinished ON run (started_ms) WHERE phase <> 'done';

CREATE TABLE client (
    run             TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    number          INTEGER NOT NULL,            -- its number in the run
    name            TEXT NOT NULL,
    address         TEXT,                        -- the first one
    row             BLOB NOT NULL,               -- RunClient: addresses, server addresses, ...
    suspect         INTEGER NOT NULL,
    probe           TEXT NOT NULL,
    delivery        TEXT NOT NULL DEFAULT 'not-told',
    silent          INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,
    acked_ms        INTEGER,                     -- since begin
    error           TEXT,
    in_scope        INTEGER NOT NULL DEFAULT 0,
    pending         INTEGER NOT NULL DEFAULT 0,
    reclaimed       INTEGER NOT NULL DEFAULT 0,
    released        INTEGER NOT NULL DEFAULT 0,
    dropped         INTEGER NOT NULL DEFAULT 0,
    kept            INTEGER NOT NULL DEFAULT 0,
    unverified      INTEGER NOT NULL DEFAULT 0,
    resurrected     INTEGER NOT NULL DEFAULT 0,
    conflicts       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE lock (
    run             TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    ordinal         INTEGER NOT NULL,            -- its place in the manager's result
    fate            TEXT NOT NULL,
    client          TEXT NOT NULL,
    file            TEXT NOT NULL,               -- handle in hex
    range           TEXT NOT NULL,               -- first-last, or first-EOF
    late            INTEGER NOT NULL,
    row             BLOB NOT NULL,               -- LockFate
    PRIMARY KEY (run, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    run             TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    at_ms           INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    detail          TEXT NOT NULL
) STRICT;
CREATE INDEX event_run ON event (run, at_ms);
