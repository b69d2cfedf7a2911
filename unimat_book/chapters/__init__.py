"""One module per chapter with what would be too long to read in it."""
