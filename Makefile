# What a maintainer runs. Users run ./run.sh.
RECIPE ?= fsdd
PYTHON := .venv/bin/python

.PHONY: test lint env results bench lock

test:            ## make the environment if needed, then run every test
	bash local/env.sh --group test
	$(PYTHON) -m pytest -n auto --dist loadgroup

lint:            ## format and check Python and shell
	bash local/env.sh --group test
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check .
	.venv/bin/shellcheck -x run.sh local/*.sh egs/*/*.sh egs/*/local/*.sh .ci/run

env:             ## make .venv for running recipes
	bash local/env.sh

results:         ## copy the tables of a recipe beside it: make results RECIPE=fsdd
	cat "egs/$(RECIPE)/exp/RESULTS.md" $$(ls egs/$(RECIPE)/exp/*/RESULTS.md 2>/dev/null) \
	  >"egs/$(RECIPE)/RESULTS.md"

bench:           ## measure speed against peers, tables in benchmarks/results
	bash local/env.sh --group test
	for file in benchmarks/bench_*.py; do \
	  $(PYTHON) -m "benchmarks.$$(basename "$$file" .py)" || exit 1; done

lock:            ## renew the locked package lists after a change of pyproject.toml
	bash local/lock.sh
