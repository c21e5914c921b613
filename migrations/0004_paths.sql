-- Notices are counted one by one, and a client's locks are judged by the server address it called for them.
ALTER TABLE client ADD COLUMN notices INTEGER NOT NULL DEFAULT 0; -- server addresses, each under each name
ALTER TABLE client ADD COLUMN acks    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE client ADD COLUMN paths   TEXT NOT NULL DEFAULT '[]'; -- JSON as nlmctl prints it: what was pending at settle
