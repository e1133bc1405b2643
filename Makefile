# `make quickstart` and `make test` set themselves up in .venv; they need Python 3.10-3.13 and make.
#
# Without make:
#   python3 -m venv .venv
#   .venv/bin/python -m pip install --editable '.[test]'
#   then the lines of the target below, with .venv/bin/ for $(BIN)/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= 2
PYTEST_ARGS ?=
RUN_DIR ?= runs/quickstart

.PHONY: help install quickstart test test-slow lint docs bazel clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   train two teachers and a student, audit, report and export ($(RUN_DIR))"
	@echo "make test         lint, types and the tests that take seconds"
	@echo "make test-slow    the tests that take minutes"
	@echo "make docs         the docs as a site (build/site/index.html)"
	@echo "make bazel        the tests under Bazel"
	@echo "make clean        remove .venv and caches; runs/ stays"

install: $(INSTALLED)

# Editable, so that only a change of pyproject.toml needs another installation.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or sys.exit("$(PYTHON) is Python %d.%d; mtard_tf needs 3.10 to 3.13: make PYTHON=python3.12 ..." % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "Installing mtard_tf and its dependencies into $(VENV) (TensorFlow is about 600 MB) ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

quickstart: $(INSTALLED)
	@$(BIN)/mtard-train --config=quickstart.gin --run_dir=$(RUN_DIR)
	@$(BIN)/mtard-eval --run_dir=$(RUN_DIR)
	@$(BIN)/mtard-export --run_dir=$(RUN_DIR) --stage=student
	@echo
	@sed -n '/^| stage | parameters/,/^$$/p' $(RUN_DIR)/report/report.md
	@echo "Made in $(RUN_DIR): two teachers, a student from both, their audit, a report with plots, a SavedModel."
	@echo "Open $(RUN_DIR)/report/index.html in a browser. Then try another distiller, a smaller student, or real size:"
	@echo "  $(BIN)/mtard-train --config=quickstart.gin --gin='student/Stage.distiller = @distillers.mtard' --run_dir=runs/mtard"
	@echo "  $(BIN)/mtard-train --config=quickstart.gin --gin='student/models.small_cnn.widths = (4, 4, 8, 8)' --run_dir=runs/tiny"
	@echo "  $(BIN)/mtard-train --config=settings/fashion_mnist.gin --gin='student/Stage.distiller = @distillers.bmtard' --run_dir=runs/fashion  (needs the set: mtard-data --help)"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

# A file's tests stay in one worker: they share its fixtures and traced functions.
test: lint
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# pytest's 5: no test is slow.
test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow $(PYTEST_ARGS) || [ $$? -eq 5 ]

# The variable silences an advertisement. Strict: a dead link or an unlisted page is an error.
docs: $(INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "Open build/site/index.html in a browser; its search needs a server: $(BIN)/python -m http.server -d build/site"

# BAZEL may be a wrapper, say one that needs no network.
BAZEL ?= bazel
bazel: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BAZEL) test //...

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
