PYTHON ?= python3
BIN = .venv/bin
ENGINE ?= $(AUGU_ENGINE)
SERVING = --extra server --extra postgresql --extra redis
COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --no-annotate --no-header --quiet --upgrade setup.cfg \
	$(SERVING)

.PHONY: run install quick test test-min check test-container train settings screenshots fuzz soak bench lock

run: install $(if $(filter torchvision,$(ENGINE)),.venv/torch)  ## serve on http://127.0.0.1:8000, or $PORT
	$(BIN)/augu-api demo
	AUGU_ENGINE=$(ENGINE) $(BIN)/augu-api serve

install: .venv/run  ## install into .venv; PYTHON=/usr/bin/python3 for a service that runs as another user
	$(BIN)/python -m augu_api.operating.interpreter

quick: .venv/quick  ## run the tests that need no torch, no browser and no server
	$(BIN)/pytest --quick $(or $(ARGS),--numprocesses 2)

test: .venv/test tests/strangers/node_modules  ## run all tests; those that need a server that is not installed are skipped
	$(BIN)/pytest $(or $(ARGS),--numprocesses 3)

check: .venv/test  ## run the linter, the formatter and the type checker
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test-min: .venv-min/test  ## run the quick tests, and a real server, with the lowest versions that setup.cfg allows
	.venv-min/bin/pytest --quick $(ARGS)
	.venv-min/bin/pytest tests/test_served.py tests/test_cluster.py::test_a_killed_worker_is_replaced

test-container: .venv/test  ## build the container and run it; needs root, buildah and debootstrap
	$(BIN)/pytest tests/container.py $(ARGS)

train: .venv/train  ## fine-tune a model: make train ARGS="bundled --images ..."
	$(BIN)/augu-api weights train $(or $(ARGS),--help)

screenshots: .venv/test  ## generate the pictures in README.md
	AUGU_SCREENSHOTS=docs $(BIN)/pytest tests/test_page.py -k screenshots

fuzz: .venv/fuzz  ## look for request bodies that are parsed wrongly: make fuzz ARGS="-max_total_time=3600 corpus"
	$(BIN)/python -m tests.fuzz $(ARGS)

soak: .venv/test tests/strangers/node_modules  ## run load, faults and attacks against an installation: make soak MINUTES=30
	$(BIN)/python -m tests.soak $(or $(MINUTES),15) $(ARGS)

bench: .venv/bench  ## compare this service's speed with others; needs h2load (nghttp2-client)
	$(BIN)/python benchmarks/run.py

settings: .venv/run  ## generate the tables in docs/settings.md and docs/training-data.md
	$(BIN)/python -m tests.readme
	$(BIN)/python -m tests.faulty_sets

lock: .venv/test  ## update the pinned requirements from setup.cfg
	$(COMPILE) -o requirements.txt
	$(COMPILE) -c requirements.txt --extra torch -o requirements-torch.txt
	$(COMPILE) -c requirements-torch.txt --extra torch --extra train -o requirements-train.txt
	$(COMPILE) -c requirements-train.txt --extra torch --extra train --extra test -o requirements-test.txt
	$(COMPILE) -c requirements-test.txt --extra torch --extra bench -o requirements-bench.txt
	echo '-e .' >> requirements.txt

.venv/run: requirements.txt setup.cfg
	$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit("The server needs Python 3.11 to 3.14.")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-deps -r requirements.txt
	touch $@

.venv/quick: requirements-test.txt .venv/run
	$(BIN)/pip install -c $< pytest pytest-xdist hypothesis
	touch $@

.venv/torch: requirements-torch.txt .venv/run
	$(BIN)/pip install --no-deps -r $<
	touch $@

.venv/train: requirements-train.txt .venv/torch
	$(BIN)/pip install --no-deps -r $<
	touch $@

.venv/bench: requirements-bench.txt .venv/torch
	$(BIN)/pip install --no-deps -r $<
	touch $@

.venv/test: requirements-test.txt .venv/torch
	$(BIN)/pip install --no-deps -r $<
	touch $@

# the lowest versions of what the service needs, with the test tools that requirements-test.txt pins
.venv-min/test: requirements-test.txt setup.cfg
	$(PYTHON) -m venv --clear .venv-min
	grep -E '^(hypothesis|pycocotools|pytest|scikit-image|uv)==' $< > .venv-min/tools.txt
	.venv-min/bin/pip install --quiet -r .venv-min/tools.txt
	.venv-min/bin/uv pip compile --quiet --no-header --no-annotate --resolution lowest-direct setup.cfg $(SERVING) \
		-o .venv-min/lowest.txt
	.venv-min/bin/uv pip install --quiet --python .venv-min --no-deps -r .venv-min/lowest.txt -e .
	touch $@

.venv/fuzz: .venv/test
	$(BIN)/pip install atheris==3.0.0
	touch $@

# clients in Node; the tests skip those of packages without npm
tests/strangers/node_modules: tests/strangers/package-lock.json
	if command -v npm > /dev/null; then npm ci --ignore-scripts --no-audit --no-fund --prefix $(@D) && touch $@; fi
