-- What is large, or fixed at submission, moves out of the row of a job: SQLite writes a row anew,
-- whole, when one of its columns changes, and a job changes at every report of a container.

CREATE TABLE submissions (
    job_id      TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id),
    -- Without its files.
    job_input   TEXT NOT NULL,
    image       TEXT NOT NULL,
    -- Last, because with 10,000 files it is a megabyte, which SQLite passes over only at the end of
    -- a row.
    input_files TEXT NOT NULL
) STRICT;

INSERT INTO submissions (job_id, job_input, image, input_files)
SELECT id, json_remove(job_input, '$.input_files'), image, json_extract(job_input, '$.input_files')
FROM jobs;

ALTER TABLE jobs DROP COLUMN job_input;
ALTER TABLE jobs DROP COLUMN image;

CREATE TABLE job_outputs (
    job_id  TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id),
    outputs TEXT NOT NULL
) STRICT;

INSERT INTO job_outputs (job_id, outputs)
SELECT id, json_extract(outcome, '$.outputs') FROM jobs
WHERE json_extract(outcome, '$.outputs') IS NOT NULL;

UPDATE jobs SET outcome = json_remove(outcome, '$.outputs');

-- Whether what the job left behind at its site was removed. Was in `notes`.
ALTER TABLE jobs ADD COLUMN cleaned INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET cleaned = coalesce(json_extract(notes, '$.cleaned'), 0),
                notes = json_remove(notes, '$.cleaned');

CREATE INDEX jobs_by_user_and_state ON jobs (user, state, update_time DESC);
CREATE INDEX jobs_by_user_and_site ON jobs (user, site, update_time DESC);
CREATE INDEX jobs_to_clean ON jobs (update_time) WHERE terminal = 1 AND cleaned = 0;
