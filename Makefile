PYTHON ?= python3
BIN = .venv/bin

.PHONY: run install test check lock

run: install  ## serve on http://127.0.0.1:8000, or $PORT
	$(BIN)/augu-api demo
	$(BIN)/gunicorn --bind 127.0.0.1:$${PORT:-8000}

install: .venv/run

test: .venv/test  ## run every test whose servers are there
	$(BIN)/pytest --cov --cov-report=term --cov-fail-under=95 $(ARGS)

check: .venv/test  ## what pre-commit and CI check beside the tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lock: .venv/test  ## pin what setup.cfg asks for
	$(BIN)/uv pip compile --universal --python-version 3.11 --no-annotate --no-header --quiet -U setup.cfg -o requirements.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --no-annotate --no-header --quiet -U --extra test -c requirements.txt setup.cfg -o requirements-test.txt

.venv/run: requirements.txt setup.cfg
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-deps -r requirements.txt -e .
	touch $@

.venv/test: .venv/run requirements-test.txt
	$(BIN)/pip install --no-deps -r requirements-test.txt
	touch $@
