-- Who is told of a transition, kept beside it so that a user's transitions are found without a join,
-- and whether it is to be sent once more.
ALTER TABLE transitions ADD COLUMN user TEXT NOT NULL DEFAULT '';
UPDATE transitions SET user = (SELECT user FROM jobs WHERE jobs.id = transitions.job_id);
ALTER TABLE transitions ADD COLUMN resend INTEGER NOT NULL DEFAULT 0;

CREATE INDEX transitions_by_user ON transitions (user, seq);
-- What the sender reads, in the order of the transitions.
CREATE INDEX transitions_to_send ON transitions (seq) WHERE notif_sent = 0 OR resend = 1;

-- Sites that an administrator has switched off or on again; others are active.
CREATE TABLE sites (
    site   TEXT    NOT NULL PRIMARY KEY,
    active INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
