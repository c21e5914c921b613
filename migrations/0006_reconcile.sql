-- What the rounds of `nlmctl reconcile` know of each client that holds locks, for the rounds that follow.
CREATE TABLE reconcile (
    endpoint        TEXT NOT NULL,               -- of the lock manager
    name            TEXT NOT NULL,
    address         TEXT NOT NULL,               -- the first one
    baseline        INTEGER NOT NULL,            -- its statd's number when nothing was held against it; 0: none
    differed        INTEGER NOT NULL,            -- the number that was evidence in the last round that it answered; 0: none
    rounds          INTEGER NOT NULL,            -- in a row that found evidence
    examined        INTEGER NOT NULL,            -- the newest number that a run has looked at; 0: none
    complaints      TEXT NOT NULL,               -- JSON: those of the lock manager that the last run has looked at
    runs            INTEGER NOT NULL,            -- in a row after which evidence was left
    not_before_ms   INTEGER NOT NULL,            -- the next run, unless there is news
    PRIMARY KEY (endpoint, name, address)
) STRICT, WITHOUT ROWID;

-- The names that a run's notices carried: a client that reclaimed after them understands them.
ALTER TABLE run ADD COLUMN names TEXT NOT NULL DEFAULT '[]'; -- JSON
CREATE INDEX client_reclaimed ON client (name, address) WHERE reclaimed > 0;
