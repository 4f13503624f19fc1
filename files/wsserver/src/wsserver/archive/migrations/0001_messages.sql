-- SPDX-License-Identifier: MIT
-- The durable history. A position is never used again, so writing a message twice changes nothing.
-- `json`, not `jsonb`: Postgres keeps the publisher's text unchanged.
CREATE TABLE messages (
    room   text             NOT NULL,
    epoch  bigint           NOT NULL,
    seq    bigint           NOT NULL,
    sender text             NOT NULL,
    ts     timestamptz      NOT NULL,
    data   json             NOT NULL,
    PRIMARY KEY (room, epoch, seq)
);
-- Retention deletes by age. Rows arrive in about that order, so a block-range index is enough.
CREATE INDEX messages_ts ON messages USING brin (ts);
