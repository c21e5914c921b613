-- A lock manager that does not know whose a lock is counts nothing for each client.
ALTER TABLE run ADD COLUMN knows_owners INTEGER NOT NULL DEFAULT 1;
