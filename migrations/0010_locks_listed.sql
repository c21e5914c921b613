-- A lock manager that cannot list its locks: what became of them is not known, whatever the sums say.
ALTER TABLE run ADD COLUMN locks_listed INTEGER NOT NULL DEFAULT 1;
