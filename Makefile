.PHONY: setup demo test test-slow test-storm test-cluster fuzz coverage check docs lock

PYTHON ?= python3.11
SETUP = .venv/.done

setup: $(SETUP)

$(SETUP): requirements.lock pyproject.toml
	@echo "installing 8 GB of packages into .venv: about five minutes, without a line"
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# From nothing to a report: train a small model on the embedded digits, distill it from 64 steps to 1, evaluate.
demo: setup
	.venv/bin/python flows/distill_flow.py run
	@echo "report: runs/latest/report/report.html"

test: setup
	.venv/bin/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: setup
	.venv/bin/python -m pytest -m slow

# The fast tests, and which lines none of them ran; those that run in other processes count, too.
coverage: setup
	.venv/bin/python -m pytest -m "not slow" -n 2 --dist worksteal --cov --cov-report=term-missing --cov-report=xml

# The documentation site, in site/; a warning is an error. To read it while you write: .venv/bin/mkdocs serve
docs: setup
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

# Runs that lose random processes at random moments, and must end as undisturbed ones: docs/reliability.md.
ROUNDS ?= 100
test-storm: setup
	.venv/bin/python -m tests.storm --rounds $(ROUNDS)

# The job tests and more on the cluster of KUBECONFIG, with an image and a store of yours: tests/README.md.
test-cluster: setup
	TEST_CLUSTER_IMAGE="$(IMAGE)" TEST_CLUSTER_STORE="$(STORE)" .venv/bin/python -m pytest --timeout 900 tests/cluster

# Mutates every foreign input; what crashes is kept in tests/fuzz/cases, which the fast tests replay.
SECONDS ?= 600
SEED ?= 0
fuzz: setup
	.venv/bin/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

check: setup
	.venv/bin/ruff check progdistill flows tests benchmarks infra docs
	.venv/bin/ruff format --check progdistill flows tests benchmarks infra docs
	.venv/bin/mypy progdistill

# After a change of pyproject.toml; what need not change keeps its version.
lock: setup
	.venv/bin/uv pip compile pyproject.toml --all-extras --generate-hashes --no-annotate --quiet \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 \
		--custom-compile-command "make lock" --output-file requirements.lock
