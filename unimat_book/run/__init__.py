"""The book tool: chapters in, stamped notebooks and pages out."""
