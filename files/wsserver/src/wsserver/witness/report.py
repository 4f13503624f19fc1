# SPDX-License-Identifier: MIT
"""The report of a witness, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from wsserver.witness.latencies import Latencies

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9, "max": 100.0}


class Verdict(StrEnum):
    KEPT = "kept"
    BROKEN = "broken"
    # The witness could not judge: a client or a publish was refused, or no publish was
    # acknowledged.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Attendance:
    """One client: its disconnects, its longest time without a connection, and a subscriber's
    longest silence.

    `failed_tries`: attempts to connect in that time; `failure`: the reason of the last failure.
    """

    user: str
    room: str | None  # a subscriber's
    disconnects: int
    longest_away_s: float
    failed_tries: int
    failure: str
    longest_silence_s: float | None  # a subscriber's
    connected: bool


@dataclass(frozen=True)
class Report:
    """The numbers of the ledger; times are in seconds.

    `refused`: publishes that their clients gave up, by the code of the error. `duplicated` and
    `reordered` also count faults that the clients noticed and corrected, by dropping a repeat or by
    resuming before a hole. `gaps`, `resets`: events that subscribers got. `faults`: the first
    faults. `trouble`: the reasons why the witness cannot judge.
    """

    seconds: float
    published: int
    acknowledged: int
    refused: dict[str, int]
    delivered: int
    lost: int
    duplicated: int
    reordered: int
    gaps: int
    resets: int
    clients: list[Attendance]
    to_ack: Latencies = field(repr=False)
    to_delivery: Latencies = field(repr=False)
    faults: list[str]
    trouble: list[str]

    @property
    def verdict(self) -> Verdict:
        if self.trouble or not self.acknowledged:
            return Verdict.UNKNOWN
        return Verdict.BROKEN if self.lost or self.duplicated or self.reordered else Verdict.KEPT

    @property
    def disconnects(self) -> int:
        return sum(client.disconnects for client in self.clients)

    @property
    def longest_away_s(self) -> float:
        return max(client.longest_away_s for client in self.clients)

    @property
    def longest_silence_s(self) -> float:
        return max(client.longest_silence_s or 0.0 for client in self.clients)

    def json(self) -> str:
        fields = {name: value for name, value in self.__dict__.items() if name not in ("to_ack", "to_delivery")}
        fields["clients"] = [asdict(client) for client in self.clients]
        whole = {
            "verdict": self.verdict,
            **fields,
            "disconnects": self.disconnects,
            "longest_away_s": self.longest_away_s,
            "longest_silence_s": self.longest_silence_s,
            "publish_to_ack_s": _percentiles(self.to_ack),
            "publish_to_delivery_s": _percentiles(self.to_delivery),
        }
        return json.dumps(whole, indent=2)

    def text(self) -> str:
        rows = [
            ("acknowledged", f"{self.acknowledged} of {self.published} published, in {self.seconds:.0f} s"),
            ("delivered", str(self.delivered)),
            ("lost", str(self.lost)),
            ("duplicated", str(self.duplicated)),
            ("reordered", str(self.reordered)),
            ("disconnects", self._disconnects()),
            ("longest silence", f"{self.longest_silence_s:.2f} s"),
            ("publish to ack", _line(self.to_ack)),
            ("publish to delivery", _line(self.to_delivery)),
        ]
        if self.gaps or self.resets:
            rows.insert(5, ("reported", f"{self.gaps} gaps, {self.resets} resets"))
        if self.refused:
            rows.insert(1, ("refused", ", ".join(f"{count} {code}" for code, count in self.refused.items())))
        verdict = {
            Verdict.KEPT: "The promise was kept.",
            Verdict.BROKEN: "The promise was BROKEN.",
            Verdict.UNKNOWN: "No judgement: " + "; ".join(self.trouble or ["nothing was acknowledged"]),
        }[self.verdict]
        lines = [f"{name:20} {value}" for name, value in rows]
        return "\n".join([verdict, "", *lines, *(["", *self.faults] if self.faults else [])])

    def _disconnects(self) -> str:
        cut = [client for client in self.clients if client.disconnects]
        if not cut:
            return f"0 of {len(self.clients)} clients"
        most = max(client.disconnects for client in cut)
        times = f"at most {most} each; " if most > 1 else ""
        away = sum(not client.connected for client in self.clients)
        still = f"; {away} are still disconnected" if away else ""
        who = f"{self.disconnects}, of {len(cut)} of {len(self.clients)} clients"
        longest = max(self.clients, key=lambda client: client.longest_away_s)
        back = f"{longest.longest_away_s:.2f} s at most until back"
        if longest.failed_tries:
            back += f" after {longest.failed_tries} failed tries, the last: {longest.failure}"
        return f"{who}; {times}{back}{still}"


def _percentiles(latencies: Latencies) -> dict[str, float | None]:
    return {name: latencies.percentile(percent) for name, percent in _PERCENTILES.items()}


def _line(latencies: Latencies) -> str:
    found = [(name, seconds) for name, seconds in _percentiles(latencies).items() if seconds is not None]
    return " · ".join(f"{name.replace('_', '.')} {seconds * 1000:.1f} ms" for name, seconds in found)
