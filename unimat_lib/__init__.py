"""UniMat in small parts: three views of a crystal, aligned, fused, and read out.

The modules follow the flow of the data and import only leftwards in this line:
``crystals -> {diffraction, graphs, composition} -> encoders -> alignment -> fusion -> heads ->
evaluate``. Importing the package loads none of them, opens no connection and sets neither a seed
nor a plot style.
"""

import logging

__version__ = "0.1.0"

# Without this, Python prints warnings of a library to standard error where nobody set up logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())
