# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
"""Which workers are replaced, by what and in which order, and what is deleted afterwards."""

from __future__ import annotations

import pytest

from ansible_collections.selfhost.websocket.plugins.module_utils._rollout import (
    Contents,
    Plan,
    Turn,
    Worker,
    abandoned,
    endpoint,
    fallback,
    held,
    missing,
    pending,
    plan_restart,
    plan_rollback,
    plan_update,
    release_of,
    restart_is_over,
    superfluous,
    to_ask,
)

OLD, NEW, NEWER = "1.0-00000001", "2.0-00000002", "3.0-00000003"


def worker(instance="80", generation=OLD, **facts):
    return Worker(instance, generation, **{"linked_at": 100, "started_at": 200} | facts)


def broken(instance="80", generation=OLD, **facts):
    return worker(instance, generation, **{"ready": False, "serving": False} | facts)


def turns(plan):
    return [(turn.instance, turn.generation, turn.fallback) for turn in plan.turns]


UPDATES = {
    "bare host": ([], ["80", "81"], {"new": ["80", "81"]}),
    "up to date": ([worker(generation=NEW)], ["80"], {}),
    "outdated": ([worker()], ["80"], {"turns": [("80", NEW, OLD)]}),
    "one more worker": ([worker(generation=NEW)], ["80", "81"], {"new": ["81"]}),
    "one worker less": ([worker(generation=NEW), worker("81")], ["80"], {"surplus": ["81"]}),
    "stopped by an operator": ([broken(generation=NEW)], ["80"], {"idle": ["80"]}),
    "runs, but is not enabled": ([worker(generation=NEW, serving=False)], ["80"], {"idle": ["80"]}),
    "stopped and not wanted": ([broken(generation=NEW)], [], {"surplus": ["80"]}),
    # The remains of an interrupted run.
    "link moved, not restarted": (
        [worker(generation=NEW, linked_at=201, ready=False, generation_before=OLD)],
        ["80"],
        {"turns": [("80", NEW, OLD)]},
    ),
    "link moved, and its drain was ended": (
        [worker(generation=NEW, linked_at=201, generation_before=OLD)],
        ["80"],
        {"turns": [("80", NEW, OLD)]},
    ),
    "link moved and restarted in the same second": ([worker(generation=NEW, linked_at=200)], ["80"], {}),
    "restarted, and does not serve": (
        [broken(generation=NEW, generation_before=OLD)],
        ["80"],
        {"turns": [("80", NEW, OLD)]},
    ),
    "replaced before the run was interrupted": ([worker(generation=NEW, generation_before=OLD)], ["80"], {}),
    "linked, never started": ([broken(generation=NEW, started_at=0)], ["80"], {"turns": [("80", NEW, NEW)]}),
    "workers without clients first": (
        [worker("80"), broken("81"), worker("82"), broken("83")],
        ["80", "81", "82", "83"],
        {"turns": [(name, NEW, OLD) for name in ("81", "83", "80", "82")]},
    ),
}


@pytest.mark.parametrize(("workers", "wanted", "expected"), UPDATES.values(), ids=UPDATES)
def test_an_update(workers, wanted, expected):
    plan = plan_update(workers, wanted, NEW)
    found = {"new": plan.new, "idle": plan.idle, "surplus": plan.surplus, "turns": turns(plan)}
    assert {name: value for name, value in found.items() if value} == expected


@pytest.mark.parametrize(("started_at", "is_replaced"), [(0, True), (299, True), (300, True), (301, False)])
def test_a_restart_replaces_processes_that_are_not_younger_than_the_request(started_at, is_replaced):
    plan = plan_restart([worker(started_at=started_at, linked_at=0)], asked_at=300)
    assert turns(plan) == ([("80", OLD, OLD)] if is_replaced else [])
    assert (plan.new, plan.idle, plan.surplus) == ([], [], [])


def test_a_restart_replaces_workers_without_clients_first():
    plan = plan_restart([worker("80"), broken("82"), worker("81"), broken("83")], asked_at=300)
    assert [turn.instance for turn in plan.turns] == ["82", "83", "80", "81"]


ROLLBACKS = {
    "changed": ([worker(generation=NEW, generation_before=OLD)], {"80": OLD}, [("80", OLD, NEW)]),
    "not changed": ([worker()], {"80": OLD}, []),
    "moved back already, not restarted": ([worker(linked_at=201, ready=False)], {"80": OLD}, [("80", OLD, OLD)]),
    "added by the rollout": ([worker(generation=NEW), worker("81", NEW)], {"80": OLD}, [("80", OLD, NEW)]),
    "removed by the rollout": ([worker(generation=NEW)], {"80": OLD, "81": OLD}, [("80", OLD, NEW)]),
    # 80 is ready with the generation that broke 81. While 81 is broken, no other worker may be
    # replaced.
    "broken ones first": (
        [worker("80", NEW), broken("81", NEW), worker("82", NEW), broken("83", NEW)],
        dict.fromkeys(["80", "81", "82", "83"], OLD),
        [(name, OLD, NEW) for name in ("81", "83", "80", "82")],
    ),
    "nothing recorded": ([worker()], {}, []),
}


@pytest.mark.parametrize(("workers", "before", "expected"), ROLLBACKS.values(), ids=ROLLBACKS)
def test_a_rollback(workers, before, expected):
    plan = plan_rollback(workers, before)
    assert turns(plan) == expected
    assert (plan.new, plan.idle, plan.surplus) == ([], [], [])


FALLBACKS = {
    "serves": (worker(), NEW, OLD),
    "serves, and is restarted": (worker(), OLD, OLD),
    "does not serve, and no rollout is open": (broken(), NEW, OLD),
    "was replaced in the open rollout": (worker(generation=NEW, generation_before=OLD), NEWER, NEW),
    "was replaced, and is drained": (worker(generation=NEW, generation_before=OLD, ready=False), NEWER, NEW),
    "failed in the open rollout": (broken(generation=NEW, generation_before=OLD), NEW, OLD),
    "failed in the open rollout, and another release follows": (
        broken(generation=NEW, generation_before=OLD),
        NEWER,
        OLD,
    ),
    "failed in the open rollout, which is rolled back": (broken(generation=NEW, generation_before=OLD), OLD, NEW),
    "runs, but is never ready": (worker(generation=NEW, generation_before=OLD, ready=False), NEW, OLD),
    # The process is still the old one, so its readiness says nothing about the link.
    "link moved, not restarted": (worker(generation=NEW, generation_before=OLD, linked_at=201), NEW, OLD),
    "link moved, not restarted, and another release follows": (
        worker(generation=NEW, generation_before=OLD, linked_at=201),
        NEWER,
        OLD,
    ),
    "is new since": (broken(generation=NEW, generation_before=None), NEW, NEW),
}


@pytest.mark.parametrize(("one", "generation", "expected"), FALLBACKS.values(), ids=FALLBACKS)
def test_the_fallback_of_a_worker(one, generation, expected):
    assert fallback(one, generation) == expected


def test_facts_of_worker_info():
    facts = {
        "instance": "80",
        "generation": OLD,
        "linked_at": 200.9,
        "last_started_at": 200.0,
        "serving": True,
        "ready": False,
        "generation_before": None,
        "drained_by": ["rollout"],
        "state": "draining",
    }
    found = Worker.from_facts(facts)
    assert found == worker(linked_at=200, ready=False, drained_by=("rollout",))
    assert not found.restart_pending, "systemd's times are whole seconds"
    assert Worker.from_facts(facts | {"last_started_at": None}).restart_pending


# Workers for which other hosts do not wait.


@pytest.mark.parametrize(
    ("check_mode", "expected"), [(False, ["81"]), (True, ["81", "83", "82"])], ids=["run", "check mode"]
)
def test_workers_that_a_rollout_repairs(check_mode, expected):
    workers = [worker("80"), broken("81"), broken("82", NEW)]
    plan = plan_update(workers, ["80", "81", "82", "83"], NEW)
    assert (plan.new, plan.idle) == (["83"], ["82"])
    assert pending(plan, workers, check_mode) == expected


def test_drains_that_an_interrupted_run_left():
    drained = {"ready": False, "drained_by": ("rollout",)}
    workers = [worker("80", NEW, **drained), worker("81", OLD, **drained), worker("82", NEW, drained_by=("alice",))]
    plan = plan_update(workers, ["80", "81", "82"], NEW)
    assert abandoned(plan, workers, "rollout") == ["80"]


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        (["10.0.0.1:8080", "10.0.0.1:8081"], "10.0.0.1:8081"),
        (["[fd00::8081]:8080", "[fd00::8081]:8081"], "[fd00::8081]:8081"),
        (["10.0.0.1:8080"], None),
    ],
)
def test_the_endpoint_of_a_worker(endpoints, expected):
    assert endpoint("81", endpoints) == expected


# May a worker be replaced now?


@pytest.mark.parametrize(
    ("drained_by", "expected"),
    [
        ((), None),
        (("rollout",), None),
        (("rollout", "alice"), ("81", "alice")),
        (("maintenance",), ("81", "maintenance")),
    ],
)
def test_a_drain_of_an_operator_stops_the_rollout(drained_by, expected):
    assert held([worker(), worker("81", drained_by=drained_by)], "rollout") == expected


def test_workers_wait_for_the_others_of_their_host():
    workers = [worker("80"), broken("81"), broken("82")]
    assert missing(workers, "80") == ["81", "82"]
    assert missing(workers, "81") == ["82"]
    assert missing(workers, "80", repaired=["81"]) == ["82"]


def test_workers_of_other_hosts_are_asked_unless_this_rollout_repairs_them():
    fleet = ["one:8080", "one:8081", "two:8080", "two:8081"]
    assert to_ask(fleet, ["one:8080", "one:8081"], []) == ["two:8080", "two:8081"]
    assert to_ask(fleet, ["one:8080", "one:8081"], ["one:8081", "two:8081"]) == ["two:8080"]


# Afterwards.


@pytest.mark.parametrize(
    ("started", "over"), [([301, 302], True), ([301, 300], False), ([301, None], False), ([], True)]
)
def test_a_restart_is_over_when_every_process_is_younger(started, over):
    assert restart_is_over(300, started) == over


@pytest.mark.parametrize(
    ("generation", "release"),
    [
        ("0.1.0+8c1f0a5be2d4-5f0c2a91", "0.1.0+8c1f0a5be2d4"),
        ("1.0-py311-x86_64-5f0c2a91", "1.0-py311-x86_64"),
        ("odd", "odd"),
    ],
)
def test_the_release_of_a_generation(generation, release):
    assert release_of(generation) == release


FIVE = {f"{n}.0-0000000{n}": (float(n), f"{n}.0") for n in range(1, 6)}
RELEASES = dict.fromkeys(f"{n}.0" for n in range(1, 6))
DELETIONS = {
    "the newest are kept": (
        FIVE,
        RELEASES,
        [],
        [],
        3,
        ["generations/1.0-00000001", "generations/2.0-00000002", "releases/1.0", "releases/2.0"],
    ),
    "used ones are kept": (FIVE, RELEASES, [], ["1.0-00000001"], 3, ["generations/2.0-00000002", "releases/2.0"]),
    "two generations of one release": (
        {"1.0-00000001": (1.0, "1.0"), "1.0-00000002": (2.0, "1.0")},
        {"1.0": None},
        [],
        [],
        1,
        ["generations/1.0-00000001"],
    ),
    "what an interrupted build left": (
        {"1.0-00000001": (1.0, "1.0")},
        {"1.0": None, "2.0.build": None},
        [],
        [],
        3,
        ["releases/2.0.build"],
    ),
    "a release without a generation": ({}, {"1.0": None}, [], [], 3, ["releases/1.0"]),
    "used, though its generation is lost": ({}, {"1.0": None}, [], ["1.0-00000001"], 3, []),
    "a shared environment": (
        FIVE,
        RELEASES | {"5.0": "b", "4.0": "b", "3.0": "a", "2.0": "a", "1.0": "c"},
        ["a", "b", "c"],
        [],
        3,
        ["generations/1.0-00000001", "generations/2.0-00000002", "releases/1.0", "releases/2.0", "environments/c"],
    ),
    # A release that an older collection built contains its environment.
    "an environment of no kept release": (
        FIVE,
        RELEASES | {"1.0": "a"},
        ["a", "b.build"],
        [],
        5,
        ["environments/b.build"],
    ),
    "bare host": ({}, {}, [], [], 3, []),
}


@pytest.mark.parametrize(
    ("generations", "releases", "environments", "used", "keep", "expected"), DELETIONS.values(), ids=DELETIONS
)
def test_what_is_deleted(generations, releases, environments, used, keep, expected):
    assert superfluous(Contents(generations, releases, environments, used), keep) == expected


def test_a_plan_is_plain_data():
    assert plan_update([worker()], ["80", "81"], NEW) == Plan(["81"], [], [], [Turn("80", NEW, OLD)])
