PYTHON ?= python3
BIN = .venv/bin
ENGINE ?= $(AUGU_ENGINE)
COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --no-annotate --no-header --quiet --upgrade setup.cfg

.PHONY: run install test check train settings screenshots fuzz soak bench lock

run: install $(if $(filter torchvision,$(ENGINE)),.venv/torch)  ## serve on http://127.0.0.1:8000, or $PORT
	$(BIN)/augu-api demo
	AUGU_ENGINE=$(ENGINE) $(BIN)/gunicorn wsgi:app --bind 127.0.0.1:$${PORT:-8000}

install: .venv/run

test: .venv/test  ## run every test whose servers are there
	$(BIN)/pytest $(or $(ARGS),--cov --cov-report=term --cov-fail-under=95)

check: .venv/test  ## what pre-commit and CI check beside the tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

train: .venv/train  ## train a model further: make train ARGS="bundled --images ..."
	$(BIN)/augu-api weights train $(or $(ARGS),--help)

screenshots: .venv/test  ## draw the pictures of README.md anew
	AUGU_SCREENSHOTS=docs $(BIN)/pytest tests/test_page.py -k screenshots

fuzz: .venv/fuzz  ## look for bodies that are read wrongly: make fuzz ARGS="-max_total_time=3600 corpus"
	$(BIN)/python -m tests.fuzz $(ARGS)

soak: .venv/test  ## load, faults and hostile input for a while: make soak MINUTES=30
	$(BIN)/python -m tests.soak $(or $(MINUTES),5)

bench: .venv/bench  ## measure this service beside others; needs h2load (nghttp2-client)
	$(BIN)/python benchmarks/run.py

settings: .venv/test  ## generate the table in docs/settings.md
	$(BIN)/python -m tests.readme

lock: .venv/test  ## pin what setup.cfg asks for
	$(COMPILE) -o requirements.txt
	$(COMPILE) -c requirements.txt --extra torch -o requirements-torch.txt
	$(COMPILE) -c requirements-torch.txt --extra torch --extra train -o requirements-train.txt
	$(COMPILE) -c requirements-train.txt --extra torch --extra train --extra test -o requirements-test.txt
	$(COMPILE) -c requirements-test.txt --extra torch --extra bench -o requirements-bench.txt
	echo '-e .' >> requirements.txt

.venv/run: requirements.txt setup.cfg
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-deps -r requirements.txt
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

.venv/fuzz: .venv/test
	$(BIN)/pip install atheris==3.0.0
	touch $@
