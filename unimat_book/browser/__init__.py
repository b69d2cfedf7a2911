"""The shipped network and known crystals in, the files that a page reads patterns with out."""
