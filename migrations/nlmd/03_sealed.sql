-- How many changes were committed, to compare with the file nlmd.seal (src/lockd/persist/seal.rs). It starts with
-- the time, so that a database made later is ahead of each that was made before.
CREATE TABLE sealed (
    only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
    commits     INTEGER NOT NULL
) STRICT;
INSERT INTO sealed VALUES (1, unixepoch() * 1000);
