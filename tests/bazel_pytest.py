"""Runs pytest on the files that it is given: the `main` of every Bazel test."""

from __future__ import annotations

import sys

import pytest

if __name__ == "__main__":
    # An editable install of the project would supply what a target's `deps` leaves out.
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if not getattr(finder, "__module__", "").startswith("__editable__")
    ]
    # Runfiles are read-only, so there is no place for a cache.
    sys.exit(pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]]))
