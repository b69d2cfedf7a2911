"""Models in, trained models out: the loop, its settings, checkpoints, the recorded step."""
