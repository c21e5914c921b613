-- A run's rows begin with its number, not with its id of 36 characters, and a lock's key is one number: rows of locks come in
-- its order, so SQLite puts each behind the last one and fills its pages. A run may have a million of them.
--
-- The tables are made anew with what they had. The children go before their run: dropping that would empty them.

CREATE TABLE new_run (
    number          INTEGER PRIMARY KEY,         -- the newest has the highest
    id              TEXT NOT NULL UNIQUE,        -- UUID
    manager         TEXT NOT NULL,               -- nlmd
    endpoint        TEXT NOT NULL,               -- where it is driven: its control socket
    instance        TEXT NOT NULL,               -- UUID of the manager's life
    knows_owners    INTEGER NOT NULL,            -- 0: the manager does not know whose a lock is, and clients have no counts
    fingerprint     TEXT NOT NULL,               -- of the plan that was consented to
    mode            TEXT NOT NULL,
    scope           TEXT NOT NULL,               -- JSON, as it was asked for
    names           TEXT NOT NULL,               -- JSON: those that its notices carried
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

CREATE TABLE new_client (
    run             INTEGER NOT NULL REFERENCES new_run (number) ON DELETE CASCADE,
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
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE new_lock (
    place           INTEGER PRIMARY KEY,         -- the run's number << 33 | the lock's place in the manager's result
    fate            TEXT NOT NULL,
    row             BLOB NOT NULL                -- LockFate
) STRICT;

CREATE TABLE new_event (
    run             INTEGER NOT NULL REFERENCES new_run (number) ON DELETE CASCADE,
    at_ms           INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    detail          TEXT NOT NULL
) STRICT;

CREATE TABLE new_progress (
    run             INTEGER NOT NULL REFERENCES new_run (number) ON DELETE CASCADE,
    elapsed_ms      INTEGER NOT NULL,            -- since begin
    pending         INTEGER NOT NULL,
    PRIMARY KEY (run, elapsed_ms)
) STRICT, WITHOUT ROWID;

-- A table that was changed already has no lock.run: this step cannot be taken twice.
INSERT INTO new_lock SELECT run.rowid << 33 | ordinal, fate, row FROM lock JOIN run ON run.id = lock.run ORDER BY 1;
INSERT INTO new_run
    SELECT rowid, id, manager, endpoint, instance, knows_owners, fingerprint, mode, scope, names, begin, phase, outcome, reason,
           exit, not_understood, alone, old_state, new_state, started_ms, ended_ms, unmonitored, in_scope, pending, reclaimed,
           released, dropped, kept, unverified, resurrected, conflicts, late FROM run;
INSERT INTO new_client
    SELECT run.rowid, client.number, name, address, row, suspect, probe, delivery, silent, notices, acks, attempts, acked_ms,
           error, paths, client.in_scope, client.pending, client.reclaimed, client.released, client.dropped, client.kept,
           client.unverified, client.resurrected, client.conflicts FROM client JOIN run ON run.id = client.run;
INSERT INTO new_event
    SELECT run.rowid, at_ms, kind, detail FROM event JOIN run ON run.id = event.run ORDER BY event.rowid;
INSERT INTO new_progress
    SELECT run.rowid, elapsed_ms, progress.pending FROM progress JOIN run ON run.id = progress.run;

DROP TABLE client;
DROP TABLE lock;
DROP TABLE event;
DROP TABLE progress;
DROP TABLE run;
ALTER TABLE new_run RENAME TO run;
ALTER TABLE new_client RENAME TO client;
ALTER TABLE new_lock RENAME TO lock;
ALTER TABLE new_event RENAME TO event;
ALTER TABLE new_progress RENAME TO progress;

CREATE INDEX run_started ON run (started_ms);
CREATE INDEX run_unfinished ON run (started_ms) WHERE phase <> 'done';
CREATE INDEX client_reclaimed ON client (name, address) WHERE reclaimed > 0;
CREATE INDEX event_run ON event (run, at_ms);
-- What a foreign key does for the other tables. It would want an index of its own here.
CREATE TRIGGER run_locks AFTER DELETE ON run BEGIN
    DELETE FROM lock WHERE place BETWEEN old.number << 33 AND ((old.number + 1) << 33) - 1;
END;
