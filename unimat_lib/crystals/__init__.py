"""Crystals as flat tensors: reading, reduction to the Niggli cell, tables and their files."""
