"""What a model card says, with and without figures."""

from __future__ import annotations

import huggingface_hub
import pytest

from mtard_tf.exporting import model_card

REPORT = {
    "verdict": "Worst case over 1 attack: 40.0% of 100 (95 %: 30.0% to 50.0%).",
    "dataset": "cifar10",
    "split": "test",
    "examples": 100,
    "threat": {"norm": "linf", "epsilon": 8 / 255},
    "clean": 0.8,
    "attacks": {
        "pgd": {"robust_accuracy": 0.4, "robust_accuracy_interval": [0.3, 0.5], "w_robust": 0.6}
    },
    "worst_case": {
        "robust_accuracy": 0.4,
        "robust_accuracy_interval": [0.3, 0.5],
        "w_robust": 0.6,
    },
    "suite": {"pgd": "PGD(num_steps=20)"},
}
METADATA = {
    "version": "0.1.0",
    "stage": {
        "stage": "student",
        "teachers": {"clean": "teachers/resnet56.keras"},
        "sources": {"clean": "0123456789abcdef"},
        "epochs": 300,
        "steps": 117_300,
        "seed": 5,
        "selected": "best",
    },
    "distiller": "bmtard",
    "net": {"name": "resnet18", "parameters": 11_173_962},
    "dataset": "cifar10",
    "label_names": ["cat", "dog"],
    "images": {"dtype": "uint8", "shape": [32, 32, 3]},
    "threat": {"norm": "linf", "epsilon": 8 / 255},
    "evaluation": REPORT,
    "formats": {
        "saved_model": {
            "bytes": 1_234_567,
            "sha256": {"saved_model.pb": "00"},
            "agreement": 1.0,
            "images": 500,
            "difference": 1.9e-6,
            "milliseconds": 0.321,
        }
    },
}


def test_a_card_has_all_of_it():
    card = model_card.text(METADATA)
    head, card = card.split("\n---\n\n")
    assert head.startswith("---\nlicense: ")
    assert card.startswith(
        "# student: resnet18\n\nAn image classifier, 11,173,962 parameters, train"
    )
    headings = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert headings == [
        *("Data", "Teachers", "Training", "Threat model", "Figures", "Files", "Caveats"),
        "How to load it",
    ]
    assert "cifar10: images of 32x32x3, 2 classes (cat, dog)." in card
    assert "| clean | teachers/resnet56.keras | 0123456789abcdef |" in card
    assert "300 epochs, 117,300 steps, seed 5; the weights are those of the best validation" in card
    assert "norm linf up to 0.031373 = 8/255 in [0, 1] pixel units" in card
    assert "Clean accuracy 80.00%, on 100 images of the test split of cifar10; linf, eps" in card
    assert "| pgd | 40.00% | 30.00% to 50.00% | 60.00% | PGD(num_steps=20) |" in card
    assert "| worst case | 40.00% | 30.00% to 50.00% | 60.00% |  |" in card
    assert REPORT["verdict"] in card
    assert "| this folder | saved_model | 1,234,567 | 100.0% | 1.9e-06 | 0.321 |" in card
    assert "held against the student on 500 validation images" in card
    assert "model_int8.tflite" not in card and "onnxruntime" not in card and "ai_edge" not in card
    assert "images = np.zeros((1, 32, 32, 3), np.uint8)" in card


def test_how_each_file_is_loaded_is_said() -> None:
    known = METADATA["formats"]["saved_model"]
    int8 = known | {"agreement": 0.986, "calibration": {"kind": "mixed calibration", "images": 600}}
    card = model_card.text(METADATA | {"formats": {"litert_int8": int8, "onnx": known}})
    assert "| model_int8.tflite | litert_int8, mixed calibration | 1,234,567 | 98.6% |" in card
    assert "its ranges were taken from 600 training images" in card
    assert 'InferenceSession("FOLDER/model.onnx")' in card and "get_signature_runner" in card
    assert "tf.saved_model.load" not in card


def test_calibrated_probabilities_are_said() -> None:
    entry = {"accuracy": 0.8, "confidence": 0.6, "ece": 0.2, "brier": 0.3}
    figures = {"before": entry, "after": entry | {"ece": 0.02}, "covered": 0.88}
    calibration = {
        **{"temperature": 0.45612, "fitted_on": 600, "coverage": 0.9, "threshold": 0.5},
        **{"split": "test", "images": 1000, "attack": "PGD()", "threat": METADATA["threat"]},
        "clean": figures | {"accuracy_covered": 0.875},
        "attacked": figures | {"accuracy_covered": None},
    }
    card = model_card.text(METADATA | {"calibration": calibration})
    assert "softmax(logits / 0.4561), which was fitted to 600 validation images" in card
    assert "On 1,000 test images, attacked by PGD() (linf, epsilon 0.031373; expected" in card
    assert "| clean | after | 80.0% | 60.0% | 2.0% | 0.300 |" in card
    assert (
        "keeps 90.0% of the validation images, and 88.0% of the clean ones above (of which 87.5% "
        "are right), 88.0% of the attacked ones above. `assets.extra/reference.json`"
    ) in card
    assert "calibrated on clean images, not on attacked ones" in card
    assert "The probabilities are not calibrated" in model_card.text(METADATA)


def test_what_openvino_makes_of_the_folder_is_said() -> None:
    for found, said in (
        ({"difference": 1.5e-6, "milliseconds": 0.0612}, "a logit 1.5e-06, 0.0612 ms.\n"),
        ({"failure": "RuntimeError: no"}, "OpenVINO does not run the folder (RuntimeError: no).\n"),
    ):
        known = METADATA["formats"]["saved_model"] | {"openvino": found}
        assert said in model_card.text(METADATA | {"formats": {"saved_model": known}})
    assert "OpenVINO" not in model_card.text(METADATA)


def test_extra_images_are_said():
    extra = {"images": 1_000_000, "share": 0.7, "labels": None}
    line = (
        "2 classes (cat, dog). 1,000,000 extra images filled a share of 0.7 of every training batch"
    )
    for labels, end in ((None, "."), ("clean", ", labelled by the teacher clean.")):
        stage = METADATA["stage"] | {"extra": extra | {"labels": labels}}
        assert f"{line}{end}\n\n## Teachers" in model_card.text(METADATA | {"stage": stage})
    assert "(cat, dog).\n\n## Teachers" in model_card.text(METADATA)


def test_the_hub_reads_the_head_of_a_card() -> None:
    data = huggingface_hub.ModelCard(model_card.text(METADATA)).data
    assert (data.license, data.library_name) == ("other", "keras")
    assert data.datasets == ["cifar10"]
    assert data.model_name == "student: resnet18"
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    assert found == {
        "clean accuracy": pytest.approx(0.8),
        "robust accuracy, pgd (linf, epsilon 8/255)": pytest.approx(0.4),
        "robust accuracy, worst case (linf, epsilon 8/255)": pytest.approx(0.4),
    }
    args = data.eval_results[1].metric_args
    assert args == {
        "threat": "linf, epsilon 8/255",
        "examples": 100,
        "attack": "PGD(num_steps=20)",
    }
    bare = huggingface_hub.ModelCard(model_card.text(METADATA | {"evaluation": None})).data
    assert bare.eval_results is None and "model-index" not in bare.to_dict()


def test_what_is_not_known_is_said():
    stage = METADATA["stage"] | {"teachers": {}, "sources": {}}
    threat = {"norm": "l2", "epsilon": 0.123456}
    card = model_card.text(
        METADATA
        | {"stage": stage, "evaluation": None, "threat": threat}
        | {"label_names": [str(n) for n in range(200)]}
    )
    assert "None: trained on labels alone." in card
    assert "Not measured: `mtard-eval` had not been run when this was exported." in card
    assert "norm l2 up to 0.12346 in [0, 1]" in card
    assert "18, 19 and 180 more)" in card


@pytest.mark.parametrize(
    ("norm", "epsilon", "said"),
    [
        ("linf", 8 / 255, "0.031373 = 8/255 in [0, 1] pixel units"),
        ("linf", 0.1, "0.1 = 25.5/255 in [0, 1] pixel units"),
        ("linf", 0.031, "0.031 = 7.905/255 in"),
        ("linf", 2 / 3 / 255, "0.0026144 in [0, 1]"),
        ("l2", 0.5, "0.5 = 127.5/255 in"),
    ],
)
def test_epsilon_in_levels_of_8_bits(norm, epsilon, said) -> None:
    card = model_card.text(METADATA | {"threat": {"norm": norm, "epsilon": epsilon}})
    assert f"norm {norm} up to {said}" in card


def test_a_radius_between_two_levels() -> None:
    """25.5/255 cannot be reached by images of 8 bits, which the export is served."""
    card = model_card.text(METADATA | {"threat": {"norm": "linf", "epsilon": 0.1}})
    assert "pixels stay in [0, 1]. Images of 8 bits come up to 25/255 within it." in card
    assert "Images of 8 bits" not in model_card.text(METADATA)
