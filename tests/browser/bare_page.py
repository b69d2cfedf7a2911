"""The head of a page without the book around it, and where the book lies."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>'
    '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"></head>'
)
