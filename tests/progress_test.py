"""Progress bars: what a log holds of them."""

from __future__ import annotations

import types

from mtard_tf.reporting.progress import Bar
from mtard_tf.running.recorder import Progress


def test_a_log_has_whole_lines_that_come_seldom(capsys):
    """Nothing at the start, and the end; what was done before says nothing about the speed."""
    with Bar("net pgd", 100, initial=20) as bar:
        for _ in range(8):
            bar.set_postfix_str("44.0%", refresh=False)
            bar.update(10)
        assert (bar.n, bar.initial) == (100, 20)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "\r" not in lines[0]
    assert lines[0].startswith("net pgd: 100%|##########| 100/100 [")
    assert lines[0].endswith("image/s, 44.0%]")


def test_a_bar_over_items_gives_them(capsys):
    assert list(Bar("train", items=range(3))) == [0, 1, 2]
    assert capsys.readouterr().err.startswith("train: 100%|##########| 3/3 [")


def test_a_training_shows_each_epoch_and_what_validation_found(capsys):
    progress = Progress("net", epochs=2, steps=5)
    progress.close()  # it may end before it begins
    model = types.SimpleNamespace(step=3)
    progress.set_model(model)
    validated = {"loss": 1.0, "validation_clean": 0.5, "validation_robust": 0.25}
    for epoch, logs in ((0, validated), (1, {"loss": 1.0})):
        progress.on_train_begin()
        model.step = 5 * (epoch + 1)
        progress.on_train_batch_end(0)
        progress.on_epoch_end(epoch, logs)
    progress.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("net:  50%|#####     | 5/10 [")
    assert first.endswith("step/s, epoch 1/2, validation: clean 50.0%, robust 25.0%]")
    assert second.startswith("net: 100%|##########| 10/10 [")
    assert second.endswith("step/s, epoch 2/2, validation: clean 50.0%, robust 25.0%]")
