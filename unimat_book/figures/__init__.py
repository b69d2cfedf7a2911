"""Every figure of the book, one function each; no figure touches global state."""
