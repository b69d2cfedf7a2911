"""Powder patterns and what is known of the elements in, cells and symmetries with odds out."""
