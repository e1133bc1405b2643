"""The monitor: its statistics against SciPy, how often it is wrong, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats

from mtard_tf import monitor


def _probabilities(draw: np.random.Generator, images: int, sharpness: float = 1.5) -> np.ndarray:
    return scipy.special.softmax(sharpness * draw.normal(0, 1, (images, 10)), axis=1)


def test_signals_by_hand() -> None:
    """Entropy of (0.7, 0.2, 0.1): 0.8018 nats; of a certain answer 0."""
    found = monitor.signals(np.array([[0.2, 0.7, 0.1], [0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(found["confidence"], [0.7, 1])
    np.testing.assert_allclose(found["margin"], [0.5, 1])
    np.testing.assert_allclose(found["entropy"], [0.8018, 0])


@pytest.mark.parametrize("seed", range(3))
def test_both_distances_are_scipy_s(seed) -> None:
    draw = np.random.default_rng(seed)
    first, second = (draw.multinomial(n, draw.dirichlet(np.ones(12))) for n in (500, 230))
    p, q = ((x + 0.5) / (x + 0.5).sum() for x in (first, second))
    both = scipy.special.rel_entr(p, q).sum() + scipy.special.rel_entr(q, p).sum()
    assert monitor.population_stability_index(first, second) == pytest.approx(both, rel=1e-12)
    bins = np.arange(12)
    expected = scipy.stats.ks_2samp(np.repeat(bins, first), np.repeat(bins, second)).statistic
    assert monitor.kolmogorov_smirnov(first, second) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("distance", [0.001, 0.03, 0.08, 0.12, 0.2, 0.9])
def test_probabilities_are_those_of_the_limits(distance) -> None:
    found = monitor.kolmogorov_smirnov_p(distance, 600, 300)
    expected = scipy.stats.kstwobign.sf(distance * np.sqrt(600 * 300 / 900))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    found = monitor.population_stability_p(distance, 10, 600, 300)
    expected = scipy.stats.chi2.sf(distance / (1 / 600 + 1 / 300), 9)
    assert found == pytest.approx(expected, abs=2e-3)
    assert monitor.population_stability_p(distance, 1, 600, 300) == 1


def test_the_false_alarm_rate_and_what_is_found() -> None:
    """Twenty references, thirty windows of each: at most 5 % of 600 are called a drift."""
    draw = np.random.default_rng(0)
    alarms = found = 0
    for _ in range(20):
        attacked = _probabilities(draw, 600, sharpness=0.8)
        reference = monitor.Reference.of(_probabilities(draw, 600), attacked)
        for _ in range(30):
            alarms += monitor.compare(_probabilities(draw, 200), reference, 0.05).drift
        moved = monitor.compare(_probabilities(draw, 200, sharpness=0.8), reference, 0.05)
        found += moved.drift and moved.nearer == "attacked"
    assert found == 20
    assert 0 < alarms <= 0.05 * 600


def test_saturated_probabilities_of_another_runtime_are_no_drift() -> None:
    """Certain to the last bit or nearly so: the same, though no value is."""
    certain = np.tile([[1.0, 0.0, 0.0]], (100, 1))
    reference = monitor.Reference.of(certain, certain)
    nearly = np.tile(np.float32([[1 - 2e-7, 1e-7, 1e-7]]), (100, 1))
    said = monitor.compare(nearly, reference)
    assert not said.drift
    np.testing.assert_array_equal([x.ks for x in said.signals.values()], 0)


@pytest.fixture(scope="module")
def reference() -> monitor.Reference:
    draw = np.random.default_rng(1)
    return monitor.Reference.of(_probabilities(draw, 300), _probabilities(draw, 200, 0.5))


def test_a_reference_comes_back_from_its_file(reference, tmp_path) -> None:
    file = tmp_path / monitor.FILE
    file.parent.mkdir()
    file.write_text(json.dumps(reference.content()))
    window = _probabilities(np.random.default_rng(2), 80)
    said = monitor.compare(window, reference)
    for path in (tmp_path, file):
        assert monitor.compare(window, monitor.Reference.load(path)) == said
    assert re.match(r"no drift, in 80 images \(confidence PSI 0\.\d{3}, KS 0\.\d{3}; ", str(said))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "is missing; export with mtard-export --calibrate, which writes it."),
        ("{", "is damaged (Expecting property name"),
        ("[]", "is damaged (list indices must be"),
        ({"edges": {}}, "is damaged ('confidence'); export again with mtard-export --calibrate."),
        ({"clean": {n: [1, 2] for n in monitor.NAMES}}, "is damaged (its bins and edges differ"),
    ],
)
def test_a_reference_that_cannot_be_read_is_one_line(reference, tmp_path, change, message) -> None:
    file = tmp_path / "reference.json"
    if change is not None:
        whole = change if isinstance(change, str) else json.dumps(reference.content() | change)
        file.write_text(whole)
    with pytest.raises(monitor.MonitorError) as error:
        monitor.Reference.load(file)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (
            np.full((49, 4), 0.25),
            "The window has 49 images and the reference 300; give 50 or more.",
        ),
        (np.ones(60), "The window is (60,); give probabilities [images, classes]."),
        (np.ones((60, 1)), "The window is (60, 1); give probabilities [images, classes]."),
        (np.ones((60, 4)), "The window's rows do not sum to 1; give probabilities, not logits."),
        (
            np.full((60, 4), np.nan),
            "The window's rows do not sum to 1; give probabilities, not log",
        ),
    ],
)
def test_a_window_that_cannot_be_used_is_one_line(reference, window, message) -> None:
    with pytest.raises(monitor.MonitorError, match=f"^{re.escape(message)}"):
        monitor.compare(window, reference)


def test_numpy_alone_is_imported() -> None:
    script = (
        "import sys; from mtard_tf import monitor; "
        "print(sorted({'keras', 'numpy', 'scipy', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['numpy']"
