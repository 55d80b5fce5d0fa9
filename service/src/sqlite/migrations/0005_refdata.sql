-- Reference data and its states at the sites, as JSON: there are dozens of these, so that what is asked of
-- their states is read from all of them.
CREATE TABLE refdata (
    id     TEXT NOT NULL PRIMARY KEY,
    file   TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
