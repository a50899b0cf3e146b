-- The whole database, schema 6. A change of shape is a new number and a step from the old one: see schema.rs.
-- Times are milliseconds since 1970, except `turn` and `claimed_us`: microseconds, never given twice.
-- `rank` is 9 - priority, so that every order of claiming ascends. States: 0 scheduled 1 ready 2 parked 3 running,
-- ended: 4 succeeded 5 dead 6 cancelled. Each task stands in exactly one of the partial indices of its state.

CREATE TABLE task (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    queue         TEXT    NOT NULL,
    id            TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    args          TEXT    NOT NULL,
    headers       TEXT,                          -- JSON, NULL when there are none
    rank          INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    turn          INTEGER NOT NULL,              -- its place among those of its rank
    tries         INTEGER NOT NULL DEFAULT 0,
    losses        INTEGER NOT NULL DEFAULT 0,
    max_attempts  INTEGER,
    timeout_ms    INTEGER,
    result_ttl_ms INTEGER,
    enqueued_at   INTEGER NOT NULL,
    due_at        INTEGER,                       -- while scheduled
    parked_at     INTEGER,                       -- while parked
    expires_at    INTEGER,
    claimed_us    INTEGER,                       -- of the newest attempt
    held_by       INTEGER,                       -- incarnation, while running
    ended_at      INTEGER,
    gone_at       INTEGER,                       -- ended: no longer there from then on
    unique_key    TEXT,
    unique_ttl_ms INTEGER,
    cancel_asked  INTEGER NOT NULL DEFAULT 0,    -- while running
    worker        TEXT,
    plugin        TEXT,
    version       TEXT,
    digest        TEXT,
    result        TEXT,
    error         TEXT,                          -- JSON, the newest
    errors        TEXT,                          -- JSON, the last five, oldest first
    progress      TEXT,                          -- JSON, while running
    child         INTEGER NOT NULL DEFAULT 0,    -- the broker itself started it: it leaves a stub
    options       TEXT,                          -- JSON, the options that no step looks at; NULL when there are none
    flow          TEXT,                          -- the node of a flow that it runs for: its queue, id, node and epoch
    UNIQUE (id, queue)
);
CREATE INDEX task_scheduled ON task (queue, due_at) WHERE state = 0;
CREATE INDEX task_ready     ON task (queue, rank, turn) WHERE state = 1;
CREATE INDEX task_parked    ON task (queue, name, rank, turn) WHERE state = 2;
CREATE INDEX task_running   ON task (queue, held_by) WHERE state = 3;
CREATE INDEX task_ended     ON task (queue, state, ended_at) WHERE state > 3;
CREATE INDEX task_gone      ON task (gone_at) WHERE gone_at IS NOT NULL;
CREATE INDEX task_expires   ON task (queue, expires_at) WHERE expires_at IS NOT NULL AND tries = 0 AND state < 3;
CREATE INDEX task_asked     ON task (queue) WHERE cancel_asked = 1;

-- How many have ended and are over their time then, the dead never: counts cost no scan of what has ended.
CREATE TABLE ended (
    queue TEXT NOT NULL, state INTEGER NOT NULL, gone_at INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (queue, state, gone_at)
) WITHOUT ROWID;

-- What bodies logged, apart from the task so that its steps stay small.
CREATE TABLE log (
    seq INTEGER PRIMARY KEY, text TEXT NOT NULL,
    live_claim INTEGER, live_from INTEGER          -- the attempt whose lines came last, by its claim, and where they begin
);
CREATE TRIGGER task_gone_with_log AFTER DELETE ON task BEGIN DELETE FROM log WHERE seq = old.seq; END;

-- `paused`: the time of the pause, or 0.
CREATE TABLE queue (name TEXT PRIMARY KEY, paused INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;

-- Children and firings that are no longer kept: within this time they are not started again.
CREATE TABLE stub (queue TEXT NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;
CREATE INDEX stub_until ON stub (until);
-- Tasks whose end somebody waits for: a row that would go at once is hidden and stays for a minute.
CREATE TABLE awaited (queue TEXT NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;

-- Names that nobody offers while tasks are parked under them: since when, and when a sweep last found it so.
CREATE TABLE unoffered (
    queue TEXT NOT NULL, name TEXT NOT NULL, since INTEGER NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (queue, name)
) WITHOUT ROWID;

CREATE TABLE unique_key (
    queue TEXT NOT NULL, key TEXT NOT NULL, holder TEXT NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (queue, key)
) WITHOUT ROWID;

-- AUTOINCREMENT: a number is never given again, so that what an old incarnation sends finds nothing.
CREATE TABLE incarnation (
    n        INTEGER PRIMARY KEY AUTOINCREMENT,
    queue    TEXT    NOT NULL,
    deadline INTEGER NOT NULL,
    lease_ms INTEGER NOT NULL,
    marked   INTEGER NOT NULL DEFAULT 0          -- seen expired once; adopted after the deadline it was then given
);
CREATE INDEX incarnation_deadline ON incarnation (queue, deadline);

CREATE TABLE worker (id TEXT PRIMARY KEY, info TEXT NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE offer (name TEXT PRIMARY KEY, offer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE kv (plugin TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (plugin, key)) WITHOUT ROWID;
-- What each plugin's kv holds, so that its quota costs no scan.
CREATE TABLE kv_size (plugin TEXT PRIMARY KEY, keys INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER kv_added AFTER INSERT ON kv BEGIN
    INSERT INTO kv_size VALUES (new.plugin, 1, length(CAST(new.key AS BLOB)) + length(new.value))
    ON CONFLICT (plugin) DO UPDATE SET keys = keys + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER kv_changed AFTER UPDATE ON kv BEGIN
    UPDATE kv_size SET bytes = bytes + length(new.value) - length(old.value) WHERE plugin = new.plugin;
END;
CREATE TRIGGER kv_removed AFTER DELETE ON kv BEGIN
    UPDATE kv_size SET keys = keys - 1, bytes = bytes - length(CAST(old.key AS BLOB)) - length(old.value) WHERE plugin = old.plugin;
END;
CREATE TABLE schedule (
    name TEXT PRIMARY KEY, definition TEXT NOT NULL, paused INTEGER NOT NULL, last INTEGER NOT NULL, last_task TEXT,
    record TEXT NOT NULL DEFAULT ''              -- the newest firings, skips and pauses: `<ms><letter>`, a space after each
) WITHOUT ROWID;

-- How many tasks a queue ever had, and how many ended in each state.
CREATE TABLE total (
    queue TEXT PRIMARY KEY, enqueued INTEGER NOT NULL, succeeded INTEGER NOT NULL, dead INTEGER NOT NULL, cancelled INTEGER NOT NULL
) WITHOUT ROWID;
-- Outcomes of attempts, by steps of `step` seconds that begin at `start`, in seconds since 1970.
CREATE TABLE sample (
    queue TEXT NOT NULL, step INTEGER NOT NULL, start INTEGER NOT NULL, task TEXT NOT NULL, counts TEXT NOT NULL,
    PRIMARY KEY (queue, step, start, task)
) WITHOUT ROWID;
-- The number of the last record of each worker, so that a repeated one adds nothing.
CREATE TABLE recorded (
    queue TEXT NOT NULL, worker TEXT NOT NULL, last INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (queue, worker)
) WITHOUT ROWID;
CREATE TABLE audit (n INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, note TEXT NOT NULL);
-- Workers that are asked to drain and end.
CREATE TABLE drain (worker TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;

-- Flows. `flow_node` has the records of steps and items, `flow_event` what they were told since their last step, `flow_result` long results.
CREATE TABLE flow (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    queue      TEXT NOT NULL,
    id         TEXT NOT NULL,
    name       TEXT NOT NULL,
    plan       TEXT NOT NULL,
    input      TEXT NOT NULL,
    state      TEXT NOT NULL,                    -- see `FlowState`
    headers    TEXT NOT NULL,
    parent     TEXT NOT NULL,                    -- as the column `flow` of a task, or empty
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    gone_at    INTEGER,
    paused     INTEGER,                          -- since when
    wake_at    INTEGER,                          -- when it wants a step; 0: now
    result     TEXT,
    UNIQUE (queue, id)
);
CREATE INDEX flow_wake ON flow (queue, wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX flow_gone ON flow (gone_at) WHERE gone_at IS NOT NULL;
CREATE TABLE flow_node (flow INTEGER NOT NULL, node TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (flow, node)) WITHOUT ROWID;
CREATE TABLE flow_result (flow INTEGER NOT NULL, field TEXT NOT NULL, result TEXT NOT NULL, PRIMARY KEY (flow, field)) WITHOUT ROWID;
CREATE TABLE flow_event (n INTEGER PRIMARY KEY AUTOINCREMENT, flow INTEGER NOT NULL, line TEXT NOT NULL);
CREATE INDEX flow_event_of ON flow_event (flow, n);
CREATE TABLE flow_signal (flow INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (flow, name)) WITHOUT ROWID;
CREATE TRIGGER flow_gone_whole AFTER DELETE ON flow BEGIN
    DELETE FROM flow_node WHERE flow = old.seq;
    DELETE FROM flow_result WHERE flow = old.seq;
    DELETE FROM flow_event WHERE flow = old.seq;
    DELETE FROM flow_signal WHERE flow = old.seq;
END;

-- One row: the last microsecond given as a `turn` or `claimed_us`.
CREATE TABLE stamp (last INTEGER NOT NULL);
INSERT INTO stamp VALUES (0);
