# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Decisions of a rollout: which workers are replaced, by what, in which order; what may be deleted.

Pure functions of the results of `worker_info` and the directories of a host. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Worker:
    """One instance of a host.

    `linked_at`: when the link was last moved. `started_at`: when systemd last started the process,
    0 if never. Both are whole Unix seconds. `serving`: active now, and enabled at boot.
    `generation_before`: the generation before the open rollout; None without an open rollout.
    """

    instance: str
    generation: str
    linked_at: int = 0
    started_at: int = 0
    serving: bool = True
    ready: bool = True
    generation_before: str | None = None
    drained_by: tuple[str, ...] = ()

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Worker:
        """Create a worker from the facts that `worker_info` returns for a linked worker."""
        return cls(
            instance=facts["instance"],
            generation=facts["generation"],
            linked_at=int(facts["linked_at"]),
            started_at=int(facts["last_started_at"] or 0),
            serving=facts["serving"],
            ready=facts["ready"],
            generation_before=facts["generation_before"],
            drained_by=tuple(facts["drained_by"]),
        )

    @property
    def restart_pending(self) -> bool:
        """Whether an interrupted run moved the link and did not restart the worker."""
        return self.linked_at > self.started_at

    @property
    def failed_update(self) -> bool:
        """Whether an unfinished rollout moved the link to a generation that does not serve."""
        return not self.serving and self.generation_before not in (None, self.generation)


@dataclass(frozen=True)
class Turn:
    """One replacement: install `generation`, and return to `fallback` if that fails."""

    instance: str
    generation: str
    fallback: str


@dataclass(frozen=True)
class Plan:
    """The plan for a host.

    `new` instances have no link yet, `idle` ones are up to date but do not serve, and `surplus`
    ones are no longer wanted.
    """

    new: Sequence[str]
    idle: Sequence[str]
    surplus: Sequence[str]
    turns: Sequence[Turn]


def plan_update(workers: Collection[Worker], wanted: Collection[str], generation: str) -> Plan:
    """Give every wanted worker `generation`."""
    have = _by_instance(workers)
    outdated = {
        worker.instance
        for worker in workers
        if worker.generation != generation or worker.restart_pending or worker.failed_update
    }
    serving = {worker.instance for worker in workers if worker.serving}
    return Plan(
        new=sorted(set(wanted) - have.keys()),
        idle=sorted((have.keys() - outdated - serving) & set(wanted)),
        surplus=sorted(have.keys() - set(wanted)),
        turns=_turns(dict.fromkeys(outdated & set(wanted), generation), have),
    )


def plan_restart(workers: Collection[Worker], asked_at: int) -> Plan:
    """Restart every worker whose process is not younger than the request, with its generation."""
    targets = {worker.instance: worker.generation for worker in workers if worker.started_at <= asked_at}
    return Plan([], [], [], _turns(targets, _by_instance(workers)))


def plan_rollback(workers: Collection[Worker], before: Mapping[str, str]) -> Plan:
    """Return every worker that the last rollout changed to its generation `before`."""
    have = _by_instance(workers)
    targets = {
        name: generation
        for name, generation in before.items()
        if name in have and (have[name].generation != generation or have[name].restart_pending)
    }
    return Plan([], [], [], _turns(targets, have))


def fallback(worker: Worker, generation: str) -> str:
    """The generation to return to if `generation` fails: the current one, unless it never served.

    An interrupted run may already have moved the link. Never fall back to a generation that does
    not serve, if the generation before the open rollout is known.
    """
    before = worker.generation_before
    proven = worker.ready or (worker.serving and worker.generation != generation)
    if before is None or before == generation or (proven and not worker.restart_pending):
        return worker.generation
    return before


def pending(plan: Plan, workers: Collection[Worker], check_mode: bool) -> list[str]:
    """Instances that this rollout repairs, so that no other host's worker waits for them.

    Two hosts with one broken worker each would otherwise wait for each other. A run starts new and
    idle workers before the first replacement; check mode has to assume that.
    """
    ready = {worker.instance for worker in workers if worker.ready}
    started = [*plan.new, *plan.idle] if check_mode else []
    return [turn.instance for turn in plan.turns if turn.instance not in ready] + started


def abandoned(plan: Plan, workers: Collection[Worker], by: str) -> list[str]:
    """Instances that an interrupted run drained, and that this plan does not replace."""
    replaced = {turn.instance for turn in plan.turns}
    return [worker.instance for worker in workers if by in worker.drained_by and worker.instance not in replaced]


def endpoint(instance: str, endpoints: Collection[str]) -> str | None:
    """Return the endpoint of an instance: worker 80 listens on port 8080."""
    return next((each for each in endpoints if each.endswith(f":80{instance}")), None)


def restart_is_over(asked_at: int, started: Collection[float | None]) -> bool:
    """Whether every process is younger than the request to restart it."""
    return all(at is not None and at > asked_at for at in started)


# May a worker be replaced now?


def held(workers: Collection[Worker], by: str) -> tuple[str, str] | None:
    """Return an instance drained by an operator, and that operator.

    `by` is the rollout's own name.
    """
    return next(((worker.instance, who) for worker in workers for who in worker.drained_by if who != by), None)


def missing(workers: Collection[Worker], instance: str | None, repaired: Collection[str] = ()) -> list[str]:
    """Return other workers of the host that are not ready. `repaired` instances count as ready."""
    return [
        worker.instance
        for worker in workers
        if not worker.ready and worker.instance != instance and worker.instance not in repaired
    ]


def to_ask(fleet: Collection[str], own: Collection[str], repaired: Collection[str]) -> list[str]:
    """Return other hosts' endpoints that must be ready, without those this rollout repairs."""
    return [each for each in fleet if each not in own and each not in repaired]


# What may be deleted?


@dataclass(frozen=True)
class Contents:
    """The contents of the service's home.

    `generations` maps a name to the time of its last change and the name of its release. `releases`
    maps a name to its environment, or to None if an older release contains its dependencies.
    `used` are the generations that an instance has, or had before the last rollout.
    """

    generations: Mapping[str, tuple[float, str]]
    releases: Mapping[str, str | None]
    environments: Collection[str]
    used: Collection[str]


def release_of(generation: str) -> str:
    """Return the release, with which a generation's name begins."""
    return re.sub("-[0-9a-f]{8}$", "", generation)


def superfluous(contents: Contents, keep: int) -> list[str]:
    """Return paths below the home that no kept generation needs.

    The newest `keep` generations and those in use are kept.
    """
    newest = sorted(contents.generations, key=lambda name: (contents.generations[name][0], name), reverse=True)[:keep]
    generations = {*newest, *contents.used}
    releases = {release_of(name) for name in generations if name not in contents.generations}
    releases |= {release for name, (_at, release) in contents.generations.items() if name in generations}
    environments = {contents.releases[name] for name in releases if name in contents.releases}
    return [
        *(f"generations/{name}" for name in sorted(contents.generations) if name not in generations),
        *(f"releases/{name}" for name in sorted(contents.releases) if name not in releases),
        *(f"environments/{name}" for name in sorted(contents.environments) if name not in environments),
    ]


def _by_instance(workers: Collection[Worker]) -> dict[str, Worker]:
    return {worker.instance: worker for worker in workers}


def _turns(targets: Mapping[str, str], have: Mapping[str, Worker]) -> list[Turn]:
    """Order the turns: workers that serve no client come first, because the other turns wait for
    them.
    """
    order = sorted(targets, key=lambda name: (have[name].ready, name))
    return [Turn(name, targets[name], fallback(have[name], targets[name])) for name in order]
