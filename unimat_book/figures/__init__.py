"""Every figure of the book, one function each; no figure touches global state."""

NARROW_MIME = "application/vnd.unimat.narrow+svg"
"""Kind of output that holds a figure's layout for telephones."""
