"""The built-in plugins: kind -> name -> "module:attribute"."""

from __future__ import annotations

_ADVERSARIAL = "mtard_tf.plugins.adversarial_training"
_ASSISTANT = "mtard_tf.plugins.teacher_assistant"
_DEFENSIVE = "mtard_tf.plugins.defensive"
_DISTILLATION = "mtard_tf.plugins.adversarial_distillation"
_MULTI = "mtard_tf.plugins.multi_teacher"
_RESNET = "mtard_tf.models.resnet_cifar"
_PRE_ACTIVATION = "mtard_tf.models.pre_activation"
BUILT_INS: dict[str, dict[str, str]] = {
    "distillers": {
        "natural": f"{_ADVERSARIAL}.natural:Natural",
        "pgd_at": f"{_ADVERSARIAL}.pgd_at:PGDAdversarialTraining",
        "fgsm_rs": f"{_ADVERSARIAL}.fgsm_rs:FGSMRS",
        "n_fgsm": f"{_ADVERSARIAL}.n_fgsm:NFGSM",
        "trades": f"{_ADVERSARIAL}.trades:Trades",
        "mart": f"{_ADVERSARIAL}.mart:MART",
        "hat": f"{_ADVERSARIAL}.hat:HAT",
        "score": f"{_ADVERSARIAL}.score:SCORE",
        "adr": f"{_ADVERSARIAL}.adr:ADR",
        "ikl": f"{_ADVERSARIAL}.ikl:IKL",
        "ard": f"{_DISTILLATION}.ard:ARD",
        "iad": f"{_DISTILLATION}.iad:IAD",
        "iad2": f"{_DISTILLATION}.iad2:IAD2",
        "rslad": f"{_DISTILLATION}.rslad:RSLAD",
        "adaad": f"{_DISTILLATION}.adaad:AdaAD",
        "adaiad": f"{_DISTILLATION}.adaiad:AdaIAD",
        "absld": f"{_DISTILLATION}.absld:ABSLD",
        "dgad": f"{_DISTILLATION}.dgad:DGAD",
        "saad": f"{_DISTILLATION}.saad:SAAD",
        "lbgat": f"{_DISTILLATION}.lbgat:LBGAT",
        "mtard": f"{_MULTI}.mtard:MTARD",
        "bmtard": f"{_MULTI}.bmtard:BMTARD",
        "defensive": f"{_DEFENSIVE}.defensive:Defensive",
        "extended_defensive_experimental": f"{_DEFENSIVE}.extended:ExtendedDefensiveExperimental",
        "knowledge_distillation": f"{_ASSISTANT}.knowledge_distillation:KnowledgeDistillation",
        "teacher_assistant": f"{_ASSISTANT}.teacher_assistant:TeacherAssistant",
        "densely_guided": f"{_ASSISTANT}.densely_guided:DenselyGuided",
    },
    "attacks": {
        "fgsm": "mtard_tf.attacks.pgd:FGSM",
        "pgd": "mtard_tf.attacks.pgd:PGD",
        "mim": "mtard_tf.attacks.margin:MIM",
        "cw_inf": "mtard_tf.attacks.margin:CWInf",
        "cw_l2": "mtard_tf.attacks.carlini_wagner:CWL2",
        "apgd": "mtard_tf.attacks.apgd:APGD",
        "apgd_ce": "mtard_tf.attacks.apgd:APGDCrossEntropy",
        "apgd_dlr": "mtard_tf.attacks.apgd:APGDDLR",
        "apgd_margin": "mtard_tf.attacks.apgd:APGDMargin",
        "apgd_t": "mtard_tf.attacks.apgd:APGDTargeted",
        "fab": "mtard_tf.attacks.fab:FAB",
        "fab_t": "mtard_tf.attacks.fab:FABTargeted",
        "square": "mtard_tf.attacks.square:Square",
        "autoattack": "mtard_tf.attacks.autoattack:AutoAttack",
        "deepfool": "mtard_tf.attacks.deepfool:DeepFool",
        "jsma": "mtard_tf.attacks.jsma:JSMA",
        "spsa": "mtard_tf.attacks.spsa:SPSA",
        "tempered": "mtard_tf.attacks.tempered:AtTemperature",
        "transfer": "mtard_tf.attacks.transfer:Transfer",
    },
    "measures": {
        "sum_of_logits_gradient": "mtard_tf.measuring.sensitivity:SumOfLogitsGradient",
        "logit_jacobian": "mtard_tf.measuring.sensitivity:LogitJacobian",
        "softmax_jacobian": "mtard_tf.measuring.sensitivity:SoftmaxJacobian",
        "cw_l2_distortion": "mtard_tf.measuring.distortion:CWDistortion",
        "jsma_features": "mtard_tf.measuring.distortion:JSMAFeatures",
        "deepfool_robustness": "mtard_tf.measuring.distortion:DeepFoolRobustness",
    },
    "models": {
        "small_cnn": "mtard_tf.models.small_cnn:small_cnn",
        "defensive_cnn": "mtard_tf.models.defensive_cnn:defensive_cnn",
        "mobilenet_v2": "mtard_tf.models.mobilenet_v2:mobilenet_v2",
        "vit_tiny": "mtard_tf.models.vision_transformer:vit_tiny",
        "convnext_femto": "mtard_tf.models.convnext:convnext_femto",
        "mix": "mtard_tf.mixing.mix:mix",
        "from_file": "mtard_tf.models.borrowed:from_file",
        "keras_application": "mtard_tf.models.borrowed:keras_application",
        **{
            f"resnet{depth}": f"{_RESNET}:resnet{depth}"
            for depth in (8, 18, 20, 32, 34, 44, 56, 110)
        },
        **{f"preact_resnet{d}": f"{_PRE_ACTIVATION}:preact_resnet{d}" for d in (18, 34)},
        "wide_resnet": f"{_PRE_ACTIVATION}:wide_resnet",
        **{
            f"wide_resnet{size}": f"{_PRE_ACTIVATION}:wide_resnet{size}"
            for size in ("34_10", "34_20", "28_10", "70_16", "22_6", "28_10_dm", "34_20_dm")
        },
    },
    "datasets": {
        name: f"mtard_tf.data:{name}"
        for name in (
            *("fashion_mini", "fashion_mnist", "mnist", "cifar10", "cifar100", "tfds"),
            *("tiny_imagenet", "npz", "image_folder", "part", "rest"),
        )
    },
}
