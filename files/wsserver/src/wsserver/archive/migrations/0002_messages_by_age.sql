-- SPDX-License-Identifier: MIT
-- Replaces the block-range index. Once Postgres stores new rows in the space of deleted rows, every
-- block range contains old and new rows, and retention would read the whole table.
CREATE INDEX messages_by_age ON messages (ts);
DROP INDEX messages_ts;
