-- From schema 1 to schema 2: see schema.sql.

-- What has ended is counted once, which reads every task that is kept.
CREATE TABLE ended (
    queue TEXT NOT NULL, state INTEGER NOT NULL, gone_at INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (queue, state, gone_at)
) WITHOUT ROWID;
INSERT INTO ended SELECT queue, state, coalesce(gone_at, 9223372036854775807), count(*) FROM task WHERE state > 3 GROUP BY 1, 2, 3;
