# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# The verbs. Each is a script in lab/, ci/ or bench/.

# `make token` takes USER only from the command line, and ignores the USER of the environment.
ifneq ($(origin USER),command line)
USER :=
endif

.PHONY: help up status look token roll down packages docs lint unit test soak bench
.SILENT:

help: ## this list, in the order of use
	sed -nE 's/^([a-z]+): ## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

up: ## 3 min, again 40 s · a test host with the whole fleet on it, and how to connect (SUITE=bookworm: on Debian 12)
	SUITE="$(SUITE)" lab/up.sh

status: ## at once · describe that fleet as one JSON object
	lab/status.sh

look: ## 2 s · show the state of that fleet in numbers, and its alerts
	lab/look.sh

token: ## 2 s · print a token for that fleet: make token USER=alice
	lab/token.sh "$(USER)"

roll: ## 2 min · replace its workers while 500 clients use it, and report what they saw (PLAYBOOK=rollback)
	lab/roll.sh $(PLAYBOOK)

down: ## 15 s · remove everything that make up created
	lab/down.sh

packages: ## 20 s · the Python package for PyPI and the browser's client for npm, into .lab/packages
	lab/prerequisites.sh
	.venv/bin/python tools/packages.py .lab/packages

docs: ## 30 s · the documentation as a site, into .lab/docs/html: the pages, and one for each module and role
	lab/environment.sh
	.venv/bin/python tools/docsite/build.py .lab/docs

lint: ## 2 min · only the linters
	ci/lint.sh

unit: ## 5 min · the tests that need neither root nor hosts
	ci/unit.sh

test: ## 30 min · everything that CI checks
	lab/prerequisites.sh
	.venv/bin/python ci/test.py

soak: ## 3 h · the long trials: hostile load, a search for counterexamples, rollouts that go wrong, monitoring, moved stores
	ci/soak.sh

bench: ## 10 min · the benchmark against other servers, with its table (QUICK=1: in 3 min; ONLY=NAME,NAME; WRITE=1: into docs)
	bench/run.sh $(if $(QUICK),--quick) $(if $(ONLY),--only "$(ONLY)") $(if $(WRITE),--write)
