"""UniMat in small parts: three views of a crystal, aligned, fused, and read out.

The modules follow the flow of the data and import only leftwards:
``crystals -> {diffraction, graphs, composition} -> encoders -> alignment -> fusion -> heads -> evaluate``.
Importing the package loads nothing else, opens no connection and sets neither a seed nor a plot style.
"""

import logging

# What is logged is shown where the program asks for it, not on every notebook page.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__version__ = "0.1.0"
