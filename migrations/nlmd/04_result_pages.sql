-- A result's rows stand apart from its sums, and so does what no controller has fetched: what changes a little of a result
-- must not touch all of it.

-- A result's clients (kind 0) and locks (kind 1): up to 1,024 rows, as XDR.
CREATE TABLE page (
    run   BLOB NOT NULL REFERENCES result (id) ON DELETE CASCADE,
    kind  INTEGER NOT NULL,
    first INTEGER NOT NULL,
    rows  BLOB NOT NULL,
    UNIQUE (run, kind, first)
) STRICT;

CREATE TABLE unfetched (
    run BLOB PRIMARY KEY REFERENCES result (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
INSERT INTO unfetched SELECT id FROM result WHERE acknowledged = 0;
ALTER TABLE result DROP COLUMN acknowledged;
