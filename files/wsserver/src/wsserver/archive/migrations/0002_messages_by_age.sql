-- SPDX-License-Identifier: MIT
-- Retention deletes the oldest. Rows arrive in about the order of age only until deleted ones leave room for new
-- ones among them: then every block range reaches far back, and the block-range index finds everything.
CREATE INDEX messages_by_age ON messages (ts);
DROP INDEX messages_ts;
