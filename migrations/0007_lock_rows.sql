-- What a lock's blob has is not there as text besides: a run may have a million rows, and half of each was that.
CREATE TABLE lock_row (
    run             TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    ordinal         INTEGER NOT NULL,            -- its place in the manager's result
    fate            TEXT NOT NULL,
    client          TEXT NOT NULL,
    row             BLOB NOT NULL,               -- LockFate
    PRIMARY KEY (run, ordinal)
) STRICT, WITHOUT ROWID;
-- A table that was changed already has no such column: this step cannot be taken twice.
INSERT INTO lock_row SELECT run, ordinal, fate, client, row FROM lock WHERE late >= 0;
DROP TABLE lock;
ALTER TABLE lock_row RENAME TO lock;
