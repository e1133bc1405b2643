"""An experiment as text: what the directory of a run that was begun from Python is known by."""

from __future__ import annotations

import json

from mtard_tf.experiment.experiment import Experiment
from mtard_tf.files import FORMAT
from mtard_tf.running import identity


def text(experiment: Experiment) -> str:
    """The stages and their settings as JSON, equal in every process for equal experiments.

    Data and teachers' files are not in it: each stage has their fingerprints.
    """
    stages = {
        stage.name: {
            "teachers": sorted(stage.teachers),
            **identity.of_stage(stage, {}, experiment.threat, experiment.seed)["settings"],
        }
        for stage in experiment.stages
    }
    return json.dumps({"format": FORMAT, "stages": stages}, indent=1) + "\n"
