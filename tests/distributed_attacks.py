"""Attacks on two replicas against one device, for `distribution_test.py`: prints what differs."""

from __future__ import annotations

import os

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.attacks import apgd, fab, margin, pgd, square
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.distribute import strategies
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.threat import ThreatModel

ATTACKS = {
    "pgd": pgd.PGD(num_steps=5),
    "mim": margin.MIM(num_steps=5),
    "cw_inf": margin.CWInf(num_steps=5),
    "apgd_ce": apgd.APGDCrossEntropy(10),
    "apgd_t": apgd.APGDTargeted(10),
    "fab_t": fab.FABTargeted(5),
    "square": square.Square(num_queries=20),
}


def main() -> None:
    strategy = strategies.create("mirrored", devices=2)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = small_cnn((8, 8, 3), 4, widths=(4, 4), dense=8)
    images = tf.constant(np.random.RandomState(0).rand(8, 8, 8, 3), tf.float32)
    labels = tf.argmax(model(images), axis=1, output_type=tf.int32)  # all rightly classified
    seeds, threat = image_seeds(0, tf.range(8)), ThreatModel("linf", 0.1)
    for name, attack in ATTACKS.items():

        def run(images, labels, seeds, attack=attack):
            return attack(
                lambda x: model(x, training=False), images, labels, threat=threat, seeds=seeds
            )

        whole = tf.function(run)(images, labels, seeds).numpy()

        @tf.function
        def shared(run=run):
            context = tf.distribute.get_replica_context
            return strategy.run(
                lambda: run(
                    *(t[context().replica_id_in_sync_group :: 2] for t in (images, labels, seeds))
                )
            )

        parts = strategy.experimental_local_results(shared())
        joined = np.empty_like(whole)
        joined[0::2], joined[1::2] = parts[0].numpy(), parts[1].numpy()
        # Batches of another size may round otherwise, which a sign can carry further.
        differing = int((np.abs(joined - whole).max(axis=(1, 2, 3)) > 1e-5).sum())
        print(f"{name}: {differing} of {len(whole)} images differ")


if __name__ == "__main__":
    main()
