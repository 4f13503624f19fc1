# SPDX-License-Identifier: MIT
"""`python -m hostile PORT SEED SECONDS`: attack the worker on a port of 127.0.0.1; prints how often
each attack ran.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from random import Random

from hostile.attacks import Target, attack

_ATTACKERS = 40


async def attacker(target: Target, until: float, ran: Counter[str]) -> None:
    while time.monotonic() < until:
        ran[await attack(target)] += 1


async def main(port: int, seed: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    ran: Counter[str] = Counter()
    async with asyncio.TaskGroup() as attackers:
        for n in range(_ATTACKERS):
            attackers.create_task(attacker(Target(port, Random(f"{seed} {n}")), until, ran))
    print(json.dumps(ran))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
