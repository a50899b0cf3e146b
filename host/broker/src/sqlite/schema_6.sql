-- From schema 5 to schema 6: see schema.sql.
ALTER TABLE schedule ADD COLUMN record TEXT NOT NULL DEFAULT '';
ALTER TABLE task ADD COLUMN flow TEXT;
CREATE TABLE flow (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    queue      TEXT NOT NULL,
    id         TEXT NOT NULL,
    name       TEXT NOT NULL,
    plan       TEXT NOT NULL,
    input      TEXT NOT NULL,
    state      TEXT NOT NULL,
    headers    TEXT NOT NULL,
    parent     TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    gone_at    INTEGER,
    paused     INTEGER,
    wake_at    INTEGER,
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
