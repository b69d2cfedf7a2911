"""Data sets by name, one module per source; ``preparation`` turns each into a crystal table."""
