"""Pages of made-up runs, audits and comparisons: what they say, and always in the same bytes."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
import sys

import fabricated_pages as fabricated
import numpy as np
import pytest
from PIL import Image

from mtard_tf import files
from mtard_tf.reporting import audit_view, charts, labels, notation, pages, png, run_view
from mtard_tf.reporting.run_files import RunFileError
from mtard_tf.reporting.tables import Table


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("made")
    fabricated.run(folder / "run")
    fabricated.comparison(folder / "comparison")
    fabricated.audit(folder / "hostile", fabricated.HOSTILE, severity="masked")
    return folder


@pytest.mark.parametrize(
    ("epsilon", "norm", "words"),
    [
        (0.1, "linf", "25.5/255"),
        (8 / 255, "linf", "8/255"),
        (float(np.float32(8 / 255)), "linf", "8/255"),
        (0.2, "linf", "51/255"),
        (0.05, "linf", "12.75/255"),
        (0.0, "linf", "0"),
        (0.5, "l2", "0.5"),
        (128 / 255, "l2", "128/255"),
    ],
)
def test_numbers_as_people_write_them(epsilon, norm, words) -> None:
    assert notation.radius(epsilon, norm) == words
    # One decimal, and nothing is made of NaN.
    assert [notation.percent(v) for v in (0.41349, 1.0, float("nan"), None)] == [
        *("41.3%", "100.0%", "n/a", "n/a")
    ]


@pytest.mark.parametrize("name", ["run", "comparison", "hostile"])
def test_a_copy_elsewhere_makes_the_same_bytes(made, tmp_path, name) -> None:
    first = pages.write(made / name).read_bytes()
    copied = shutil.copytree(made / name, tmp_path / "other" / "place")
    own = pages.write(copied)
    assert own.read_bytes() == first
    assert str(made).encode() not in first
    assert pages.write(copied, tmp_path / "out.html").read_bytes() == first


def test_it_needs_neither_tensorflow_nor_matplotlib(made) -> None:
    command = (
        "import sys; sys.argv = ['mtard-report', sys.argv[1], '--out=' + sys.argv[2]]\n"
        "import atexit; from mtard_tf.bin import report\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'cleverhans'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules))))\n"
        "report.run()"
    )
    out = made / "again.html"
    done = subprocess.run(
        [sys.executable, "-c", command, str(made / "run"), str(out)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"Page: {out}\nheavy: []\n", done.stderr
    assert out.read_text() == pages.run(made / "run")


def test_what_a_reader_asks_first_comes_first(made) -> None:
    text = pages.audit(made / "run" / "evaluation" / "student")
    headings = re.findall(r"<h2[^>]*>([^<]+)", text)
    assert headings[:4] == [
        *("Accuracies", "What survives each attack", "Findings", "Classes, worst first")
    ]
    report = json.loads((made / "run/evaluation/student/report.json").read_text())
    worst = notation.percent(report["worst_case"]["robust_accuracy"])
    assert text.index(report["verdict"]) < text.index("<h2")
    assert text.index(f'<div class="big">{worst}</div>') < text.index("<h2")
    assert "linf, epsilon 25.5/255" in text
    first = text[text.index("Classes, worst first") :]
    assert first.index(report["worst_class"]["worst_case"]["class"]) < first.index(
        "</tr>\n<tr>", 999
    )


def test_the_waterfall_by_hand(tmp_path) -> None:
    """Of 10 images 8 are right; a breaks 6 and 7, b 3, 4, 5 and 7, c 7; both is the worst of a, b.

    An ensemble is no attack of its own: with it nothing would be broken by a or b alone.
    """
    report = fabricated.audit(tmp_path, attacks=("a", "both", "b", "c"), examples=10)
    del report["suite"]["both"]
    files.write_json(tmp_path / "report.json", report)
    outcomes = {
        "clean": "1111111100",
        "a": "1111110000",
        "b": "1110001000",
        "both": "1110000000",
        "c": "1111111000",
    }
    kept = dict(np.load(tmp_path / "examples.npz"))
    arrays = kept | {k: np.array([c == "1" for c in v]) for k, v in outcomes.items()}
    np.savez(tmp_path / "examples.npz", **arrays)
    text = pages.audit(tmp_path)
    table = text[text.index("What survives each attack") : text.index(">Findings<")]
    assert "both" not in table
    rows = [re.findall(r'<td class="n">([^<]+)</td>', row) for row in table.split("<tr>")[2:]]
    # What is left after it; newly broken; broken by no other: 6 by a, and 3, 4 and 5 by b.
    assert rows == [["60.0%", "2", "1"], ["30.0%", "3", "3"], ["30.0%", "0", "0"]]


def test_names_are_escaped_and_the_policy_forbids_the_network(made) -> None:
    text = pages.audit(made / "hostile")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and policy[1].startswith("default-src &#39;none&#39;;")
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert json.loads(inside[1])["model"] == fabricated.HOSTILE


CALIBRATION = {
    **{"temperature": 0.4561, "fitted_on": 600, "coverage": 0.9, "threshold": 0.497},
    **{"split": "test", "images": 1000, "attack": "PGD()"},
    "threat": {"norm": "linf", "epsilon": 0.1},
    **{
        kind: {
            "before": {"accuracy": 0.811, "confidence": 0.611, "ece": 0.2, "brier": 0.324},
            "after": {"accuracy": 0.811, "confidence": 0.806, "ece": 0.021, "brier": 0.26},
            **{"covered": 0.876, "accuracy_covered": 0.865},
        }
        for kind in ("clean", "attacked")
    },
}


def test_a_calibrated_export_is_on_the_page_of_its_run(made, tmp_path) -> None:
    run_dir = shutil.copytree(made / "run", tmp_path / "run")
    before = pages.run(run_dir)
    stage = json.loads((run_dir / "student" / "stage.json").read_text())
    known = {"stage": stage, "calibration": CALIBRATION}
    files.write_json(run_dir / "export/student/1/assets.extra/metadata.json", known)
    text = pages.run(run_dir)
    section = text[text.index('id="probabilities"') : text.index('id="provenance"')]
    for words in ("0.4561", "600 validation", "1,000 test", "61.1%", "2.1%", "0.324", "0.497"):
        assert words in section
    assert "makes the probabilities worse" not in section
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert json.loads(inside[1])["calibrations"] == {"student": CALIBRATION}
    assert 'id="probabilities"' not in before


def test_a_name_breaks_at_its_joints(made) -> None:
    text = pages.run(made / "run")
    assert '<td class="name" title="clean_teacher">clean_<wbr>teacher<' in text
    assert "&lt;script&gt;alert" in pages.audit(made / "hostile")  # and is escaped all the same


def test_a_masked_audit_says_upper_bound_and_what_to_do(made) -> None:
    text = pages.audit(made / "hostile")
    assert ">masked</span>" in text and "an upper bound" in text
    report = json.loads((made / "hostile" / "report.json").read_text())
    worst = report["worst_case"]
    for key, times in (("robust_accuracy", 2), ("w_robust", 1), ("nrr", 1)):
        assert text.count(f"≤ {notation.percent(worst[key])}") >= times, key
    assert f"≤ {notation.percent(report['clean'])}" not in text
    assert "epsilon warm-up" in text


def test_a_star_where_the_interval_excludes_zero(made) -> None:
    compared = json.loads((made / "comparison" / "comparison.json").read_text())
    text = pages.comparison(made / "comparison")
    for row in compared["rows"]:
        found = row.get("against_baseline", {}).get("worst_case")
        if found:
            words = re.escape(notation.points(found["difference"]))
            shown = re.search(rf">{words}( \*)?<div", text)
            assert bool(shown[1]) == found["excludes_zero"], row["row"]
    assert sum(
        bool(r.get("against_baseline", {}).get("worst_case", {}).get("excludes_zero"))
        for r in compared["rows"]
    ) not in (0, 8)


def test_sizes(made, tmp_path) -> None:
    assert len(pages.run(made / "run").encode()) < 700_000
    assert len(pages.comparison(fabricated.comparison(tmp_path, rows=27)).encode()) < 1_000_000


def test_states_of_a_run(tmp_path) -> None:
    run_dir = fabricated.run(tmp_path)
    shutil.rmtree(run_dir / "evaluation")
    (run_dir / "student" / "stage.json").unlink()
    assert ">training</span>" in pages.run(run_dir)
    line = "Told to go (SIGTERM): checkpointed at step 7."
    files.write_json(run_dir / "student" / "problem.json", {"kind": "stopped", "line": line})
    text = pages.run(run_dir)
    assert ">stopped</span>" in text and line in text and "after 6 of 6 epochs" in text
    (run_dir / "student" / "metrics.jsonl").unlink()
    (run_dir / "student" / "problem.json").unlink()
    assert ">waits</span>" in pages.run(run_dir)


def test_an_audit_of_an_earlier_training_is_not_shown(tmp_path) -> None:
    run_dir = fabricated.run(tmp_path)
    report_path = run_dir / "evaluation" / "student" / "report.json"
    report = json.loads(report_path.read_text())
    student = run_dir / "student" / "student.keras"
    student.write_bytes(b"trained anew")
    assert set(_inside(pages.run(run_dir))["audits"]) == {"clean_teacher", "robust_teacher"}
    files.write_json(report_path, report | {"student": files.keras_digest(student)})
    assert "student" in _inside(pages.run(run_dir))["audits"]
    (run_dir / "student" / "stage.json").unlink()  # --restart: it trains again
    assert "student" not in _inside(pages.run(run_dir))["audits"]


def _inside(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found[1])


def test_a_stage_that_another_starts_from_is_not_the_headline(tmp_path) -> None:
    run_dir = fabricated.run(tmp_path)
    stages = json.loads((run_dir / "stages.json").read_text())
    stages["stages"][0]["initial"] = "student"
    files.write_json(run_dir / "stages.json", stages)
    audits = {name: fabricated.audit(tmp_path / name) for name in ("clean_teacher", "student")}
    shown = {name: audit_view.view(report, {}) for name, report in audits.items()}
    stages = run_view.view(run_dir, shown)["stages"]
    assert [stage["teaches"] for stage in stages] == [True, True, True]


def test_times_are_sorted_by_their_seconds(made) -> None:
    """Of the first column: 5 epochs of 6 to 11 seconds."""
    seconds = sum(5.0 + epoch for epoch in range(1, 7))
    words = notation.seconds(seconds)
    assert f'<td class="n" data-value="{seconds}">{words}</td>' in pages.run(made / "run")


def test_a_strange_value_in_an_audit_of_a_run_names_its_file(tmp_path) -> None:
    run_dir = fabricated.run(tmp_path)
    path = run_dir / "evaluation" / "student" / "report.json"
    report = json.loads(path.read_text())
    del report["per_class"]
    files.write_json(path, report)
    with pytest.raises(RunFileError, match=r"student/report.json is damaged \('per_class'\)"):
        pages.run(run_dir)


def test_where_no_student_can_be_believed(tmp_path) -> None:
    """A teacher leads that can be; of nothing but masked and void rows none."""
    path = fabricated.comparison(tmp_path) / "comparison.json"
    compared = json.loads(path.read_text())
    for row in compared["rows"]:
        row["severity"] = "none" if row["teacher"] else "masked"
    files.write_json(path, compared)
    words = "the best row that can be believed is"
    assert f"{words} method_<wbr>0." in pages.comparison(tmp_path)
    compared["rows"][0]["severity"] = "void"
    files.write_json(path, compared)
    text = pages.comparison(tmp_path)
    assert words not in text and '<tr class="worst">' not in text
    assert "are upper bounds or say nothing (see the column).</strong>" in text


def test_names_of_stages_and_rows_are_escaped(tmp_path) -> None:
    name = "<img src=x onerror=alert(1)>'\"&|"
    texts = [
        pages.run(fabricated.run(tmp_path / "run", name)),
        pages.comparison(fabricated.comparison(tmp_path / "comparison", name=name)),
    ]
    for text in texts:
        assert "<img src=x" not in text and "&lt;img src=x onerror" in text
    assert _inside(texts[0])["stages"]["stages"][2]["name"] == name
    assert _inside(texts[1])["rows"][0]["row"] == f"{name}_0"


def test_a_cell_of_markdown_cannot_end(tmp_path) -> None:
    table = Table(("a|b", "n"), [("c|d", "1")])
    assert table.markdown() == ["| a\\|b | n |", "|---|---:|", "| c\\|d | 1 |"]


def test_a_path_of_nothing_and_a_damaged_file_are_one_line(tmp_path) -> None:
    with pytest.raises(pages.PageError, match="is no run .stages.json., no audit"):
        pages.write(tmp_path)
    fabricated.audit(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    del report["per_class"]
    files.write_json(tmp_path / "report.json", report)
    with pytest.raises(RunFileError, match=r"report.json is damaged \('per_class'\)"):
        pages.write(tmp_path)


def test_a_page_that_cannot_be_written_stops_nothing(tmp_path, capsys) -> None:
    assert pages.refresh(tmp_path / "nothing") is None
    assert capsys.readouterr().err.startswith(f"No page of {tmp_path / 'nothing'}: PageError: ")


def test_an_epoch_costs_little(tmp_path) -> None:
    """A hundred epochs of four hundred steps: only the rows of epochs are parsed."""
    fabricated.run(tmp_path)
    row = '{"kind": "step", "step": 1, "loss": this is never parsed\n'
    path = tmp_path / "student" / "metrics.jsonl"
    path.write_text(row * 40_000 + path.read_text())
    assert len(run_view.view(tmp_path, {})["stages"][2]["figures"]) == 6


def test_labels_do_not_overlap() -> None:
    points = [(200.0 + 3 * i, 100.0 + 2 * i) for i in range(10)]
    names = [f"a_long_method_{i}" for i in range(10)]
    placed = labels.place(points, names, [str(i) for i in range(10)], (0, 0, 440, 260))
    boxes = [labels.box(label) for label in placed]
    assert len(placed) == 10
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert labels.apart(one, other)
        for x, y in points:
            assert labels.apart(one, (x - 4, y - 4, x + 4, y + 4))


def test_of_classes_that_none_survives_the_weakest_comes_first(tmp_path) -> None:
    report = fabricated.audit(tmp_path, attacks=("a", "b"))
    for place, entry in enumerate(report["per_class"].values()):
        entry |= {"worst_case": 0.0, "a": (0.3, 0.1, 0.2, 0.1, 0.0)[place], "b": 0.1 * place}
    table = audit_view.view(report, {})["classes"]
    assert [row["name"] for row in table["rows"]] == [
        *("Coat", "Trouser", "Dress", "Pullover", "T-shirt/top")
    ]


def test_labels_leave_bars_free_where_there_is_room() -> None:
    point, bars = (200.0, 100.0), [(150.0, 98.0, 250.0, 102.0), (198.0, 60.0, 202.0, 140.0)]
    [plain] = labels.place([point], ["name"], ["1"], (0, 0, 440, 260))
    [label] = labels.place([point], ["name"], ["1"], (0, 0, 440, 260), bars)
    assert not labels.apart(labels.box(plain), bars[0])
    assert label.words == "name" and all(labels.apart(labels.box(label), bar) for bar in bars)
    # And where there is none, the number stands on the bar.
    [label] = labels.place([point], ["name"], ["1"], (0, 0, 440, 260), [(0, 0, 440, 260)])
    assert label.words == "1"


@pytest.mark.parametrize(
    ("attacks", "words"),
    [(("fgsm",), "--suite=autoattack"), (("fgsm", "autoattack"), "another norm (--norm)")],
)
def test_what_is_next_where_nothing_speaks_against_it(tmp_path, attacks, words) -> None:
    fabricated.audit(tmp_path, attacks=attacks)
    assert words in pages.audit(tmp_path)


def test_ticks_enclose() -> None:
    assert charts.ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.ticks(3.1, 3.9) == pytest.approx([3.0, 3.2, 3.4, 3.6, 3.8, 4.0])
    assert charts.ticks(2.0, 2.0) == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0])
    assert charts.ticks(1e-14, 3e-14) == pytest.approx([1e-14, 1.5e-14, 2e-14, 2.5e-14, 3e-14])
    tiny = charts.Series("kl", [(1, 1e-14), (2, 3e-14)], 0)
    assert "e-14" in charts.lines([tiny], "Loss", "epoch")


def test_a_trade_off_curve_joins_its_points_in_its_order() -> None:
    points = [
        {"label": label, "clean": clean, "robust": robust, "place": place}
        for place, (label, clean, robust) in enumerate(
            [("high", 0.8, 0.3), ("aside", 0.5, 0.5), ("low", 0.6, 0.5), ("middle", 0.7, 0.4)]
        )
    ]
    joined = charts.trade_off(points, "pgd", True, ["low", "middle", "high", "absent"])
    middle = re.findall(r'<line x1="([\d.]+)" [^>]*x2="([\d.]+)" [^>]*class="whisker"/>', joined)
    assert len(middle) == 2 and middle[0][1] == middle[1][0]
    assert float(middle[0][0]) < float(middle[0][1]) < float(middle[1][1])
    assert "whisker" not in charts.trade_off(points, "pgd", True)


def test_a_png_is_read_back(tmp_path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    path = tmp_path / "image.png"
    path.write_bytes(png.encoded(pixels))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)


def test_the_difference_is_amplified_as_far_as_it_fits() -> None:
    clean = np.full((2, 2, 1), 100, np.uint8)
    attacked = np.array([[[125], [75]], [[100], [110]]], np.uint8)
    picture, gain = png.difference(clean, attacked)
    assert gain == 5  # 25 levels times 5 are 125, at most 127
    np.testing.assert_array_equal(picture[..., 0], [[253, 3], [128, 178]])


def test_a_claim_as_robustbench_asks_for_it(tmp_path) -> None:
    fabricated.audit(tmp_path, "net", dataset="cifar10", attacks=("apgd_ce", "autoattack"))
    text = pages.robustbench(tmp_path)
    fields = dict(re.findall(r"- \*\*([^*]+)\*\*: (.+)", text))
    assert fields["Dataset"] == "CIFAR-10"
    assert fields["Threat Model"] == "Linf" and fields["eps"] == "25.5/255"
    assert fields["Evaluation method"] == "AutoAttack"
    report = json.loads((tmp_path / "report.json").read_text())
    accuracy = report["attacks"]["autoattack"]["robust_accuracy"]
    assert fields["Robust accuracy"] == f"{accuracy:.2%}"
    assert text.splitlines()[-2:] == [
        "* Epsilon is 25.5/255; its leaderboard has 8/255.",
        "* It is of 200 images of the test split, not of all test images: leave out --examples.",
    ]
    with pytest.raises(pages.PageError, match="a claim is of one audit"):
        pages.robustbench(tmp_path / "nothing")
