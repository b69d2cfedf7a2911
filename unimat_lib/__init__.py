"""UniMat in small parts: three views of a crystal, aligned, fused, and read out.

The folders follow the flow of the data, and each imports only from those before it:
``crystals -> datasets, views -> encoders -> alignment -> fusion -> heads -> model -> training ->
evaluation``. Importing the package loads none of them, opens no connection and sets neither a seed
nor a plot style.
"""

import logging

__version__ = "0.1.0"

# Without this, Python prints warnings of a library to standard error where nobody set up logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())
