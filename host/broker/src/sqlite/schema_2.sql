-- From schema 1 to schema 2: see schema.sql.

-- What has ended is counted once, which reads every task that is kept.
CREATE TABLE ended (
    queue TEXT NOT NULL, state INTEGER NOT NULL, gone_at INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (queue, state, gone_at)
) WITHOUT ROWID;
INSERT INTO ended SELECT queue, state, coalesce(gone_at, 9223372036854775807), count(*) FROM task WHERE state > 3 GROUP BY 1, 2, 3;
ALTER TABLE task ADD COLUMN child INTEGER NOT NULL DEFAULT 0;
CREATE TABLE stub (queue TEXT NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;
CREATE INDEX stub_until ON stub (until);
CREATE TABLE awaited (queue TEXT NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;

-- Names that nobody offers while tasks are parked under them: since when, and when a sweep last found it so.
CREATE TABLE unoffered (
    queue TEXT NOT NULL, name TEXT NOT NULL, since INTEGER NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (queue, name)
) WITHOUT ROWID;
