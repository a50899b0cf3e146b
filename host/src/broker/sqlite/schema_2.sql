-- From schema 1 to schema 2: see schema.sql.

ALTER TABLE task ADD COLUMN child INTEGER NOT NULL DEFAULT 0;
CREATE TABLE stub (queue TEXT NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;
CREATE INDEX stub_until ON stub (until);
CREATE TABLE awaited (queue TEXT NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;
