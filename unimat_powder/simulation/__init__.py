"""Bragg reflections and ranges of what laboratories do in, measured-looking powder patterns out."""
