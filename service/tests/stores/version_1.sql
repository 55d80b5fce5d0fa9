-- A database file as version 1 wrote it: its schema, and a job that has ended.


CREATE TABLE jobs (
    id               TEXT    PRIMARY KEY,
    user             TEXT    NOT NULL,
    site             TEXT    NOT NULL,
    state            TEXT    NOT NULL,
    update_time      INTEGER NOT NULL,
    -- 1 while the state is complete, error or canceled.
    terminal         INTEGER NOT NULL,
    -- 1 while something must be done to end the job: all containers have ended, or it is being
    -- canceled. Written in the transaction that makes it so, hence found again after a crash.
    pending          INTEGER NOT NULL,
    input_file_count INTEGER NOT NULL,
    -- Fixed at submission. Apart from the rest, because with 10,000 input files it is a megabyte
    -- that no container update needs to read or write.
    job_input        TEXT    NOT NULL,
    image            TEXT    NOT NULL,
    -- What the job came to, and what is noted on it.
    outcome          TEXT    NOT NULL,
    notes            TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX jobs_by_update_time ON jobs (update_time DESC);
CREATE INDEX jobs_by_user ON jobs (user, update_time DESC);
CREATE INDEX jobs_by_state ON jobs (state, update_time DESC);
CREATE INDEX jobs_by_site ON jobs (site, update_time DESC);
CREATE INDEX jobs_running ON jobs (site) WHERE terminal = 0;
CREATE INDEX jobs_pending ON jobs (id) WHERE pending = 1;

-- The jobs' transitions, which are also the outbox of notifications: `seq` orders them over all
-- jobs, and a row is written in the transaction that changes the job's state.
CREATE TABLE transitions (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id        TEXT    NOT NULL REFERENCES jobs (id),
    trans_id      TEXT    NOT NULL UNIQUE,
    state         TEXT    NOT NULL,
    time          INTEGER NOT NULL,
    notif_sent    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX transitions_by_job ON transitions (job_id, seq);
CREATE INDEX transitions_unsent ON transitions (time) WHERE notif_sent = 0;

CREATE TABLE containers (
    job_id  TEXT    NOT NULL REFERENCES jobs (id),
    number  INTEGER NOT NULL,
    state   TEXT    NOT NULL,
    record  TEXT    NOT NULL,
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    name   TEXT NOT NULL,
    digest TEXT NOT NULL,
    tag    TEXT,
    record TEXT NOT NULL,
    PRIMARY KEY (name, digest)
) STRICT;

-- At most one image per name lacks a tag; in a plain unique index NULLs would not be equal.
CREATE UNIQUE INDEX images_by_tag ON images (name, coalesce(tag, ''));

PRAGMA user_version = 1;

INSERT INTO jobs VALUES (
    '905455f7-815e-4e36-a12d-042806224ebb', 'dev', 'local', 'complete', 2000000, 1, 0, 2,
    '{"cluster":"local","image":"docker.io/library/x:1","params":{"input_mount_point":"/in","output_mount_point":"/out","declobber":false},"num_containers":1,"cpus":1,"memory":10000000,"runtime":"PT1M","output_dir":"cts/out/","input_files":[{"file":"cts/in/1","crc64nvme":"AAAAAAAAAAA="},{"file":"cts/in/2","crc64nvme":"AAAAAAAAAAA="}]}',
    '{"registered_by":"admin","registered_on":"2026-11-20T10:00:00Z","name":"docker.io/library/x","digest":"sha256:aa","entrypoint":["x"],"tag":"1"}',
    '{"outputs":[{"file":"cts/out/a","crc64nvme":"AAAAAAAAAAA="}],"output_file_count":1,"logpath":"cts/logs/x"}',
    '{"admin_meta":{"ticket":7},"cleaned":true}');

INSERT INTO transitions (job_id, trans_id, state, time) VALUES
    ('905455f7-815e-4e36-a12d-042806224ebb', 't1', 'created', 1000000),
    ('905455f7-815e-4e36-a12d-042806224ebb', 't2', 'complete', 2000000);

INSERT INTO containers VALUES (
    '905455f7-815e-4e36-a12d-042806224ebb', 0, 'complete',
    '{"transitions":[{"state":"complete","time":"1970-01-01T00:00:02Z"}],"exit_code":0}');
