-- A client that only locked again what it had, in targeted grace, has shown nothing of how it understands notices, and counts
-- as one that reclaimed. In strict grace there is no such lock.
ALTER TABLE client ADD COLUMN understood INTEGER NOT NULL DEFAULT 0; -- 1: it reclaimed as a notice makes it do
UPDATE client SET understood = 1 WHERE reclaimed > 0 AND run IN (SELECT number FROM run WHERE mode = 'strict');
DROP INDEX client_reclaimed;
CREATE INDEX client_understood ON client (name, address) WHERE understood = 1;
