-- 1795747774905
CREATE TABLE task (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    queue         TEXT    NOT NULL,
    id            TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    args          TEXT    NOT NULL,
    headers       TEXT,
    rank          INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    turn          INTEGER NOT NULL,
    tries         INTEGER NOT NULL DEFAULT 0,
    losses        INTEGER NOT NULL DEFAULT 0,
    max_attempts  INTEGER,
    timeout_ms    INTEGER,
    result_ttl_ms INTEGER,
    enqueued_at   INTEGER NOT NULL,
    due_at        INTEGER,
    parked_at     INTEGER,
    expires_at    INTEGER,
    claimed_us    INTEGER,
    held_by       INTEGER,
    ended_at      INTEGER,
    gone_at       INTEGER,
    unique_key    TEXT,
    unique_ttl_ms INTEGER,
    cancel_asked  INTEGER NOT NULL DEFAULT 0,
    worker        TEXT,
    plugin        TEXT,
    version       TEXT,
    digest        TEXT,
    result        TEXT,
    error         TEXT,
    errors        TEXT,
    progress      TEXT,
    child         INTEGER NOT NULL DEFAULT 0,
    options       TEXT,
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
CREATE TABLE ended (
    queue TEXT NOT NULL, state INTEGER NOT NULL, gone_at INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (queue, state, gone_at)
) WITHOUT ROWID;
CREATE TABLE log (seq INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE queue (name TEXT PRIMARY KEY, paused INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE stub (queue TEXT NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;
CREATE INDEX stub_until ON stub (until);
CREATE TABLE awaited (queue TEXT NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;
CREATE TABLE unoffered (
    queue TEXT NOT NULL, name TEXT NOT NULL, since INTEGER NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (queue, name)
) WITHOUT ROWID;
CREATE TABLE unique_key (
    queue TEXT NOT NULL, key TEXT NOT NULL, holder TEXT NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (queue, key)
) WITHOUT ROWID;
CREATE TABLE incarnation (
    n        INTEGER PRIMARY KEY AUTOINCREMENT,
    queue    TEXT    NOT NULL,
    deadline INTEGER NOT NULL,
    lease_ms INTEGER NOT NULL,
    marked   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX incarnation_deadline ON incarnation (queue, deadline);
CREATE TABLE worker (id TEXT PRIMARY KEY, info TEXT NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE offer (name TEXT PRIMARY KEY, offer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE kv (plugin TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (plugin, key)) WITHOUT ROWID;
CREATE TABLE kv_size (plugin TEXT PRIMARY KEY, keys INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE schedule (
    name TEXT PRIMARY KEY, definition TEXT NOT NULL, paused INTEGER NOT NULL, last INTEGER NOT NULL, last_task TEXT
) WITHOUT ROWID;
CREATE TABLE stamp (last INTEGER NOT NULL);
INSERT INTO task VALUES (1,'default','succeeded','add','[1,1]',NULL,4,4,1795747774880000,1,0,NULL,NULL,NULL,1795747774880,NULL,NULL,NULL,1795747774880001,NULL,1795747774881,1795834183680,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab','2',NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (10,'default','child','add','[1,1]',NULL,4,4,1795747774890002,1,0,NULL,NULL,NULL,1795747774890,NULL,NULL,NULL,1795747774891000,NULL,1795747774892,1795834183680,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab','7',NULL,NULL,NULL,1,NULL);
INSERT INTO task VALUES (11,'mail','child-away','add','[1,1]',NULL,4,1,1795747774890003,0,0,NULL,NULL,NULL,1795747774890,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,NULL);
INSERT INTO task VALUES (13,'default','parked','unknown','[1,1]',NULL,4,2,1795747774893000,0,0,NULL,NULL,NULL,1795747774893,NULL,1795747774893,NULL,1795747774893001,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (14,'default','between','add','[1,1]',NULL,4,0,1795747774893002,1,0,NULL,NULL,NULL,1795747774893,1795834174894,NULL,NULL,1795747774894000,NULL,NULL,NULL,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab',NULL,'{"kind":"retry","message":"try again"}','[{"at":1795747774894,"attempt":1,"worker":"box:1:test","plugin":"math","version":"1.0.0","digest":"abababababababababababababababababababababababababababababababab","error":{"kind":"retry","message":"try again"}}]',NULL,0,NULL);
INSERT INTO task VALUES (15,'default','delayed','add','[1,1]',NULL,4,0,1795747774894001,0,0,NULL,NULL,NULL,1795747774894,1795834174894,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (16,'default','running','add','[1,1]',NULL,4,3,1795747774894002,0,0,NULL,NULL,NULL,1795747774894,NULL,NULL,NULL,1795747774901002,1,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (17,'default','running-options','add','[1,1]','[["tenant","x"]]',4,3,1795747774900000,0,0,9,5000,NULL,1795747774900,NULL,NULL,NULL,1795747774901002,1,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,'{"tags":["vip","eu"]}');
INSERT INTO task VALUES (18,'default','running-asked','add','[1,1]',NULL,4,3,1795747774901000,0,0,NULL,NULL,NULL,1795747774901,NULL,NULL,NULL,1795747774901002,1,NULL,NULL,NULL,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (19,'default','running-again','add','[1,1]',NULL,4,3,1795747774902000,1,0,NULL,NULL,NULL,1795747774901,NULL,NULL,NULL,1795747774902001,1,NULL,NULL,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab',NULL,'{"kind":"retry","message":"try again"}','[{"at":1795747774902,"attempt":1,"worker":"box:1:test","plugin":"math","version":"1.0.0","digest":"abababababababababababababababababababababababababababababababab","error":{"kind":"retry","message":"try again"}}]',NULL,0,NULL);
INSERT INTO task VALUES (20,'default','sender','add','[1,1]',NULL,4,4,1795747774902002,1,0,NULL,NULL,NULL,1795747774902,NULL,NULL,NULL,1795747774903000,NULL,1795747774903,1795834183680,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab','8',NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (21,'mail','child-late','add','[1,1]',NULL,4,1,1795747774903001,0,0,NULL,NULL,NULL,1795747774903,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,NULL);
INSERT INTO task VALUES (22,'default','ready','add','[1,1]',NULL,4,1,1795747774903002,0,0,NULL,NULL,NULL,1795747774903,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (23,'default','ready-first','add','[1,1]','[["traceparent","00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],["tenant","ü"]]',0,1,1795747774904000,0,0,NULL,NULL,NULL,1795747774904,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,'{"tags":["vip"]}');
INSERT INTO task VALUES (24,'default','ready-unique','add','[1,1]',NULL,4,1,1795747774904001,0,0,NULL,NULL,NULL,1795747774904,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'k',86400000,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (25,'default','ready-expires','add','[1,1]',NULL,4,1,1795747774904002,0,0,NULL,NULL,NULL,1795747774904,NULL,NULL,1795834174904,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (26,'default','ready-awaited','add','[1,1]',NULL,4,1,1795747774904003,0,0,NULL,NULL,NULL,1795747774904,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (27,'default','batch-3','add','[1,1]',NULL,4,1,1795747774904004,0,0,NULL,NULL,NULL,1795747774904,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (28,'default','batch-1','add','[1,1]',NULL,4,1,1795747774904005,0,0,NULL,NULL,NULL,1795747774904,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (29,'default','batch-2','add','[1,1]',NULL,4,1,1795747774904006,0,0,NULL,NULL,NULL,1795747774904,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (3,'default','succeeded-own','add','[1,1]',NULL,4,4,1795747774883000,1,0,NULL,NULL,172800000,1795747774883,NULL,NULL,NULL,1795747774883001,NULL,1795747774883,1795920625664,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab','{"n":3}',NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (30,'paused','paused','add','[1,1]',NULL,4,1,1795747774905000,0,0,NULL,NULL,NULL,1795747774905,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (4,'default','succeeded-logged','add','[1,1]',NULL,4,4,1795747774884000,1,0,NULL,NULL,NULL,1795747774884,NULL,NULL,NULL,1795747774884001,NULL,1795747774884,1795834183680,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab','4',NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (5,'default','dead','fail','[1,1]',NULL,4,5,1795747774885001,2,0,NULL,NULL,NULL,1795747774884,NULL,NULL,NULL,1795747774885002,NULL,1795747774886,NULL,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab',NULL,'{"kind":"permanent","message":"no"}','[{"at":1795747774885,"attempt":1,"worker":"box:1:test","plugin":"math","version":"1.0.0","digest":"abababababababababababababababababababababababababababababababab","error":{"kind":"retry","message":"try again"}},{"at":1795747774886,"attempt":2,"worker":"box:1:test","plugin":"math","version":"1.0.0","digest":"abababababababababababababababababababababababababababababababab","error":{"kind":"permanent","message":"no"}}]',NULL,0,NULL);
INSERT INTO task VALUES (6,'default','cancelled','add','[1,1]',NULL,4,6,1795747774886000,0,0,NULL,NULL,NULL,1795747774886,NULL,NULL,NULL,NULL,NULL,1795747774886,1795834183680,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,'{"kind":"cancelled","message":"cancelled before it started"}',NULL,NULL,0,NULL);
INSERT INTO task VALUES (7,'default','cancelled-running','add','[1,1]',NULL,4,6,1795747774886001,1,0,NULL,NULL,NULL,1795747774886,NULL,NULL,NULL,1795747774887000,NULL,1795747774888,1795834183680,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab',NULL,'{"kind":"cancelled","message":"cancelled while it ran"}','[{"at":1795747774888,"attempt":1,"worker":"box:1:test","plugin":"math","version":"1.0.0","digest":"abababababababababababababababababababababababababababababababab","error":{"kind":"retry","message":"try again"}}]',NULL,0,NULL);
INSERT INTO task VALUES (8,'default','again','add','[1,1]',NULL,4,4,1795747774889000,1,0,NULL,NULL,NULL,1795747774888,NULL,NULL,NULL,1795747774889001,NULL,1795747774890,1795834183680,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab','5',NULL,NULL,NULL,0,NULL);
INSERT INTO task VALUES (9,'default','parent','add','[1,1]',NULL,4,4,1795747774890000,1,0,NULL,NULL,NULL,1795747774890,NULL,NULL,NULL,1795747774890001,NULL,1795747774890,1795834183680,NULL,NULL,0,'box:1:test','math','1.0.0','abababababababababababababababababababababababababababababababab','6',NULL,NULL,NULL,0,NULL);
INSERT INTO ended VALUES ('default',4,1795834183680,6);
INSERT INTO ended VALUES ('default',4,1795920625664,1);
INSERT INTO ended VALUES ('default',5,9223372036854775807,1);
INSERT INTO ended VALUES ('default',6,1795834183680,2);
INSERT INTO log VALUES (4,'{"n":1}
');
INSERT INTO queue VALUES ('default',0);
INSERT INTO queue VALUES ('mail',0);
INSERT INTO queue VALUES ('paused',1);
INSERT INTO stub VALUES ('default','child-gone',1795748374893);
INSERT INTO awaited VALUES ('default','ready-awaited',1795747834904);
INSERT INTO unique_key VALUES ('default','k','ready-unique',1795834174904);
INSERT INTO incarnation VALUES (1,'default',1795747824903,60000,0);
INSERT INTO kv VALUES ('math','k',X'76');
INSERT INTO kv_size VALUES ('math',1,2);
INSERT INTO schedule VALUES ('nightly','{"name":"nightly","rule":"0 3 * * *","timezone":"UTC","task":"add","args":"[1,1]","queue":"default","priority":5,"catch_up":"once","overlap":"allow","source":"cli","defined_at":0,"created_at":1795747774904,"paused":false,"last":1795747774905,"last_task":null}',0,1795747774905,NULL);
INSERT INTO stamp VALUES (1795747774905000);
CREATE TRIGGER task_gone_with_log AFTER DELETE ON task BEGIN DELETE FROM log WHERE seq = old.seq; END;
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
PRAGMA application_id = 1953001265;
PRAGMA user_version = 3;
