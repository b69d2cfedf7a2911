"""Lines of a pattern in, ranked cells out: indexing without a library."""
