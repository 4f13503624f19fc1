-- SPDX-License-Identifier: MIT
-- The durable history. A position is unique for good: writing a message twice is no change.
-- `json`, not `jsonb`: the publisher's text is kept as it came.
CREATE TABLE messages (
    room   text             NOT NULL,
    epoch  bigint           NOT NULL,
    seq    bigint           NOT NULL,
    sender text             NOT NULL,
    ts     timestamptz      NOT NULL,
    data   json             NOT NULL,
    PRIMARY KEY (room, epoch, seq)
);
-- Retention deletes by age; rows arrive in about that order, so that a block-range index is enough.
CREATE INDEX messages_ts ON messages USING brin (ts);
