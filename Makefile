# What a maintainer runs. Users run ./run.sh.
RECIPE ?= fsdd
N ?= 4000
SEED ?= 1
PART ?= 1/1
PYTHON := .venv/bin/python

.PHONY: test test-fast test-kernels fuzz fuzz-recipe mutants lint env results bench lock

test:            ## make the environment if needed, then run every test
	bash local/env.sh --group test
	$(PYTHON) -m pytest -n auto --dist loadgroup

test-fast:       ## all tests but those that run whole recipes or train for long
	bash local/env.sh --group test
	$(PYTHON) -m pytest -n auto --dist loadgroup --ignore tests/integration

test-kernels:    ## every GPU kernel over all its cases, in Triton's interpreter and on a GPU if there is one
	bash local/env.sh --group test
	KERNEL_TESTS=full $(PYTHON) -m pytest -n auto tests/nn/ops/triton

fuzz:            ## damage what commands read, N cases: make fuzz N=4000 SEED=1 (see tests/robustness)
	bash local/env.sh --group test
	$(PYTHON) -m tests.robustness --cases "$(N)" --seed "$(SEED)"

mutants:         ## put a mistake into a copy of the package, one after the other: do its tests find it?
	bash local/env.sh --group test
	nice $(PYTHON) -m tests.mutants --part "$(PART)"

fuzz-recipe:     ## kill all stages at 20 moments, delete or cut 100 outputs: make fuzz-recipe SEED=1
	bash local/env.sh --group test
	$(PYTHON) -m tests.robustness.recipe --seed "$(SEED)"

lint:            ## format and check Python and shell
	bash local/env.sh --group test
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m basedpyright
	.venv/bin/shellcheck -x run.sh local/*.sh egs/*/*.sh egs/*/local/*.sh .ci/run

env:             ## make .venv for running recipes
	bash local/env.sh

results:         ## put the tables of a recipe beside it: make results RECIPE=fsdd [CORPUS_DIR=hidden]
	cd "egs/$(RECIPE)" && if grep -qs '^<!-- results: begin' RESULTS.md; then \
	  ../../$(PYTHON) -m espnet_spike.bin.report --expdir exp --corpus "$(RECIPE)" \
	    --out exp/RESULTS.md --copy_to RESULTS.md $(CORPUS_DIR:%=--corpus_dir "%"); else \
	set -e; test -f exp/RESULTS.md || { echo "egs/$(RECIPE)/exp/RESULTS.md: run the recipe first" >&2; exit 1; }; \
	cat exp/RESULTS.md $$(ls exp/*/RESULTS.md 2>/dev/null) >exp/.results.md; \
	lost=$$(grep -s '^### asr_' RESULTS.md | grep -vxFf exp/.results.md) || true; \
	if [ -n "$$lost" ]; then rm exp/.results.md; \
	  echo "egs/$(RECIPE)/RESULTS.md holds results that are not at hand and would be lost:" >&2; \
	  echo "$$lost" >&2; exit 1; fi; \
	mv exp/.results.md RESULTS.md; fi

bench:           ## measure speed against peers, tables in benchmarks/results (by hand: bench_gpu, on a GPU; bench_full_size)
	bash local/env.sh --group test
	for file in benchmarks/bench_*.py; do \
	  name=$$(basename "$$file" .py); out=benchmarks/results/$${name#bench_}; \
	  case $$name in bench_gpu|bench_full_size) continue;; bench_train_step) out=$${out}_cpu;; esac; \
	  $(PYTHON) -m "benchmarks.$$name" --out "$$out" || exit 1; done

lock:            ## renew the locked package lists after a change of pyproject.toml
	bash local/lock.sh
