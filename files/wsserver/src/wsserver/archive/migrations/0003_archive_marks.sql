-- SPDX-License-Identifier: MIT
-- How far Postgres has seen the archive's streams in Redis: of each shard the newest id, for each
-- process of Redis (its run id). A Redis that starts with less is older than before.
CREATE TABLE archive_marks (
    process text     NOT NULL,
    shard   smallint NOT NULL,
    ms      bigint   NOT NULL,
    number  bigint   NOT NULL,
    PRIMARY KEY (process, shard)
);
