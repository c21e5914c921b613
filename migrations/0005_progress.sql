-- How many locks were pending in the course of a run, for its report.
CREATE TABLE progress (
    run             TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    elapsed_ms      INTEGER NOT NULL,            -- since begin
    pending         INTEGER NOT NULL,
    PRIMARY KEY (run, elapsed_ms)
) STRICT, WITHOUT ROWID;
