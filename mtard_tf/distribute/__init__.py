"""`tf.distribute`: strategies, and sums over replicas."""
