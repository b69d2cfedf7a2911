"""Predictions on file in, every published number with its interval and verdict out."""
