"""Trainings that answer the open questions of the paper, on any number of GPUs."""
