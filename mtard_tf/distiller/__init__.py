"""The distiller: one `train_step`, its inner attack, and the options of a step."""
