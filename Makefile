# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The verbs. Each is a script in lab/, ci/ or bench/.

# USER comes from the command line only: the environment's own USER is not a wish.
ifneq ($(origin USER),command line)
USER :=
endif

.PHONY: help up status look token roll down lint unit test soak bench
.SILENT:

help: ## this list
	sed -nE 's/^([a-z]+): ## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

up: ## a test host with the whole fleet on it, and how to connect (SUITE=bookworm: on Debian 12)
	SUITE="$(SUITE)" lab/up.sh

status: ## that fleet as one JSON object
	lab/status.sh

look: ## the state of that fleet in numbers, and its alerts
	lab/look.sh

token: ## a token for it: make token USER=alice
	lab/token.sh "$(USER)"

roll: ## roll that fleet while 500 clients talk over it, and say what they saw (PLAYBOOK=rolling_restart, or rollback)
	lab/roll.sh $(PLAYBOOK)

down: ## unmake everything that make up made
	lab/down.sh

lint: ## the linters alone
	ci/lint.sh

unit: ## the tests that need neither root nor hosts
	ci/unit.sh

test: ## everything that CI checks
	lab/prerequisites.sh
	.venv/bin/python ci/test.py

soak: ## the long trials: hostile load, a search for counterexamples, rollouts that go wrong, an observer (about two hours)
	ci/soak.sh

bench: ## the benchmark against other servers, with its table (QUICK=1: in 3 minutes; ONLY=NAME,NAME; WRITE=1: into docs)
	bench/run.sh $(if $(QUICK),--quick) $(if $(ONLY),--only "$(ONLY)") $(if $(WRITE),--write)
