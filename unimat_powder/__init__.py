"""From a measured powder pattern to a unit cell: files, peaks, indexing, refinement, answers."""
