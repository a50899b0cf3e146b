-- What came to schema 1 after its first files were made: each step does nothing where it was done before, and hosts that do not know
-- of it are not disturbed.

-- Names that nobody offers while tasks are parked under them: since when, and when a sweep last found it so.
CREATE TABLE IF NOT EXISTS unoffered (
    queue TEXT NOT NULL, name TEXT NOT NULL, since INTEGER NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (queue, name)
) WITHOUT ROWID;
