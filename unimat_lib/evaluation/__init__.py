"""Trained models in, errors frames and metrics out."""
