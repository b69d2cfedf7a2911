"""Known crystals in, one memory-mapped file for the search out."""
