# Two commands do everything on a fresh machine with Python, make and a package index:
#   make demo    the main job, on an authorization server and APIs on loopback
#   make test    all tests
# Each target makes the virtual environment it needs.

PYTHON ?= python3
VENVS := .cache/venvs
EXTRAS := cli,files,httpx2,keyring,otel,redis,settings
SOURCES := resource_tokens tests examples benchmarks conftest.py docs/conf.py

.PHONY: demo test lint types docs bench compared dist pins soak clean

demo: $(VENVS)/demo/.ready
	@$(VENVS)/demo/bin/python -m resource_tokens.cli.demo

# Not `pytest --cov`: the pytest plugin of this package is loaded before that starts to measure.
test: $(VENVS)/test/.ready
	$(VENVS)/test/bin/python -m coverage run -m pytest $(ARGS)
	$(VENVS)/test/bin/python -m coverage report

lint: $(VENVS)/lint/.ready
	$(VENVS)/lint/bin/ruff check $(SOURCES)
	$(VENVS)/lint/bin/ruff format --check $(SOURCES)

types: $(VENVS)/lint/.ready
	$(VENVS)/lint/bin/mypy
	$(VENVS)/lint/bin/pyright --pythonpath $(VENVS)/lint/bin/python

docs: $(VENVS)/docs/.ready
	$(VENVS)/docs/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

# Two minutes; ARGS='--seconds 20' for fewer.
soak: $(VENVS)/test/.ready
	$(VENVS)/test/bin/python -m benchmarks.soak $(ARGS)

bench: $(VENVS)/test/.ready
	$(VENVS)/test/bin/python -m benchmarks --page $(ARGS)

compared: $(VENVS)/test/.ready
	$(VENVS)/test/bin/python -m benchmarks.compared --page

# What is released, and a CycloneDX bill of materials of everything that comes along with it.
dist: $(VENVS)/release/.ready
	rm -rf dist $(VENVS)/shipped
	$(VENVS)/release/bin/python -m build --outdir dist
	$(PYTHON) -m venv --without-pip $(VENVS)/shipped
	$(VENVS)/release/bin/python -m pip --python $(VENVS)/shipped/bin/python install --quiet \
		"$$(echo dist/*.whl)[$(EXTRAS)]"
	$(VENVS)/release/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library \
		--output-reproducible --of JSON --sv 1.6 -o dist/resource_tokens.cdx.json \
		$(VENVS)/shipped/bin/python

# The versions that CI takes, from what the index has today. Run it, run CI, and commit the file.
pins:
	$(PYTHON) -m venv --clear $(VENVS)/pins
	$(VENVS)/pins/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENVS)/pins/bin/python -m pip install --quiet -e .[$(EXTRAS)] \
		--group test --group lint --group docs --group release
	echo '# What CI takes of each package; `make pins` writes it anew.' > .ci/constraints.txt
	$(VENVS)/pins/bin/python -m pip freeze --exclude-editable >> .ci/constraints.txt

clean:
	rm -rf .cache docs/_build dist

$(VENVS)/demo/.ready: INSTALL := -e .[cli]
$(VENVS)/test/.ready: INSTALL := -e .[$(EXTRAS)] --group test
$(VENVS)/lint/.ready: INSTALL := -e .[$(EXTRAS)] --group test --group lint --group docs
$(VENVS)/release/.ready: INSTALL := --group release
$(VENVS)/docs/.ready: INSTALL := -e .[$(EXTRAS)] --group docs

$(VENVS)/%/.ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(@D)/bin/python -m pip install --quiet $(INSTALL)
	@touch $@
