"""Settings in, trainings of every way to fuse and to align out: the grid of chapter 05."""
