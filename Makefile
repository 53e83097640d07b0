# `make demo` starts the example app, `make test` runs every check. Each sets up what it needs: Python 3.11 and git suffice.

PYTHON ?= python3
UV := $(shell command -v uv || echo .tools/bin/uv)
RUN := $(UV) run --no-progress --quiet --group dev

.PHONY: demo test lint types pytest bench browser servers

demo: $(UV)
	@$(UV) run --no-progress --quiet --no-dev --group demo python -m examples.ravyn_shop

test: lint types pytest

lint: $(UV)
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(UV)
	$(RUN) mypy

pytest: $(UV) browser servers
	$(RUN) pytest -n 2

bench: $(UV)
	$(UV) run --no-progress --quiet --group bench python -m benchmarks.sessions

# The browser test drives Debian's Chromium; where it is missing and we may, install it.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium for the browser test"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	  else echo "no chromium here: the browser test will be skipped"; fi; }

# The tests start servers of their own. Redis and PostgreSQL come with the test dependencies where the machine has none;
# MariaDB has no such package, and is installed where we may.
servers:
	@command -v mariadbd mysqld /usr/sbin/mariadbd >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing mariadb-server for the tests"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mariadb-server >/dev/null; \
	  else echo "no mariadbd here: the tests that need it will be skipped"; fi; }

# uv in a folder of its own: nothing outside this repository is touched.
.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv
