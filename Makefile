# `make demo` starts the example app, `make test` runs every check. Each sets up what it needs: Python 3.11 and git suffice.

PYTHON ?= python3
UV := $(shell command -v uv || echo .tools/bin/uv)
RUN := $(UV) run --no-progress --quiet --group dev

.PHONY: demo docs wheel test lint types pytest coverage test-lowest dist extras bench bench-engines bench-scale bench-live soak cluster browser servers

demo: $(UV)
	@$(UV) run --no-progress --quiet --no-dev --group demo python -m roomkey serve-demo

# The docs site, into site/. It fails on a dead link, a warning, and a public name that the reference lacks.
docs: $(UV)
	@$(UV) run --no-progress --quiet --no-dev --group docs python -m website

# Roomkey as one file in dist/, to install on another machine.
wheel: $(UV)
	@rm -f dist/roomkey-*.whl
	@$(UV) build --quiet --wheel --out-dir dist
	@ls dist/roomkey-*.whl

test: lint types pytest

lint: $(UV)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) python -m website.prose

types: $(UV)
	$(RUN) mypy
	$(RUN) mypy --config-file= --strict --cache-dir .mypy_cache/frameworks tests/typing/frameworks.py
	$(UV) run --no-progress --quiet --isolated --group complete pyright --verifytypes roomkey --ignoreexternal >.mypy_cache/complete.txt \
	  || { grep -E "error|completeness" .mypy_cache/complete.txt; exit 1; }

pytest: $(UV) browser servers
	@without="$$([ "$$(id -u)" = 0 ] || { $(MARIADB) || echo mariadb; $(REDIS) || echo redis-tls; $(PGBOUNCER) || echo pgbouncer; })"; \
	TESTS_WITHOUT="$$without" $(RUN) pytest -n 3

# Which lines the tests run; TESTS="tests/test_users.py tests/core" for those of some tests.
TESTS ?= tests
coverage: $(UV) browser servers
	$(RUN) pytest -n 2 --cov --cov-report=term-missing:skip-covered $(TESTS)

# The adaptors' tests on the lowest versions of each framework and driver that pyproject.toml supports; ROWS="flask quart" for some.
ROWS ?=
test-lowest: $(UV)
	$(UV) run --no-project --no-progress --quiet --python 3.11 python tests/lowest.py --uv $(UV) $(ROWS)

# The wheel and the sdist, in dist/, checked. Nothing is uploaded.
dist: $(UV)
	@rm -f dist/roomkey-*
	@$(UV) build --quiet --out-dir dist
	@$(UV) tool run --quiet twine check --strict dist/roomkey-*
	@$(UV) run --no-project --no-progress --quiet python tests/distributions.py dist

# The wheel with each extra alone, in an empty environment, on each Python that is here; EXTRAS="flask quart" for some.
# `contract` is a store of another project's, with the wheel and pytest alone.
EXTRAS ?=
PYTHONS ?= 3.11 3.12 3.13 3.14
extras: dist
	@$(UV) run --no-project --no-progress --quiet --python 3.11 python tests/extras.py --uv $(UV) \
	  --wheel dist/roomkey-*.whl --pythons "$(PYTHONS)" $(EXTRAS)

# What Roomkey costs, beside its peers: see benchmarks/README.md. The part http needs wrk (apt-get install wrk).
PARTS ?=
bench: $(UV)
	$(UV) run --no-progress --quiet --group bench python -m benchmarks $(PARTS)

# What grows with the number of sessions, up to 10 million; ARGS="--scale 0.01" for small machines. See docs/scale.md.
ARGS ?=
bench-scale: $(UV)
	$(UV) run --no-progress --group bench python -m benchmarks.scale $(ARGS)

# Open WebSockets and the end of their sessions, on Redis and PostgreSQL: see docs/howto-live.md. It needs many open files.
bench-live: $(UV)
	$(UV) run --no-progress --quiet --group dev python -m benchmarks.live

# Redis and PostgreSQL under load, with more peers and more connections; needs wrk.
bench-engines: $(UV)
	$(UV) run --no-progress --quiet --group bench python -m benchmarks.engines

# Ten minutes of mixed load while the engine is stopped, killed and frozen; ENGINE=postgres for the other one.
ENGINE ?= redis
soak: $(UV)
	$(UV) run --no-progress --quiet --group bench python -m benchmarks.soak --engine $(ENGINE)

# A Redis cluster whose nodes fail over, whose slots move, and that gets another node, while users work: some minutes.
cluster: $(UV) servers
	$(RUN) pytest tests/stores/on_redis/cluster_changes.py

# The browser test drives Debian's Chromium; where it is missing and we may, install it.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium for the browser test"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	  else echo "no chromium here: the browser test will be skipped"; fi; }

# The tests start servers of their own. Redis and PostgreSQL come with the test dependencies where the machine has none;
# MariaDB, PgBouncer, and a Redis with TLS, are Debian's, and installed where we may. Root may, so nothing is left out there.
MARIADB := { command -v mariadbd || command -v mysqld || command -v /usr/sbin/mariadbd; } >/dev/null 2>&1
PGBOUNCER := { command -v pgbouncer || command -v /usr/sbin/pgbouncer; } >/dev/null 2>&1
REDIS := { command -v redis-server || command -v valkey-server; } >/dev/null 2>&1

servers:
	@missing="$$($(MARIADB) || echo mariadb-server) $$($(PGBOUNCER) || echo pgbouncer) $$($(REDIS) || echo redis-server)"; \
	if [ "$$missing" != "  " ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing for the tests: $$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	    apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	elif [ "$$missing" != "  " ]; then echo "WITHOUT $$missing: the tests that need them will be skipped"; fi

# uv in a folder of its own: nothing outside this repository is touched.
.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv
