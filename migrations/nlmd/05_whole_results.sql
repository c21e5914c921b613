-- A result is written in several transactions, and is one when its last page is there.
ALTER TABLE result ADD COLUMN whole INTEGER NOT NULL DEFAULT 1;
