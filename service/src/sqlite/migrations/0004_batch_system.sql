-- What has to do with a batch system.

-- 1 while the batch system's account of an ended job is still to come. The row's `outcome` says the
-- same; this is for finding it.
ALTER TABLE jobs ADD COLUMN statistics_due INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_with_statistics_due ON jobs (site) WHERE statistics_due = 1;

-- Which of several services does what must be done by one at a time, until when.
CREATE TABLE leases (
    name   TEXT    NOT NULL PRIMARY KEY,
    holder TEXT    NOT NULL,
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
