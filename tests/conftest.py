"""Settings shared by all tests: TensorFlow quiet and on few threads, everything seeded."""

from __future__ import annotations

import os
import sys

import hypothesis
import pytest

# Before TensorFlow starts, which reads them once.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

# No deadline: the first example pays for tracing. Derandomised: the suite is deterministic.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Seeds Python, NumPy and TensorFlow, if the test's modules use Keras at all."""
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.set_random_seed(0)
