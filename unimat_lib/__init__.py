"""The library behind UniMat, the book: crystals in, aligned and fused views out.

The import graph is the data flow: ``crystals`` -> ``diffraction``, ``graphs``, ``composition`` ->
``encoders`` -> ``alignment`` -> ``fusion`` -> ``heads`` -> ``evaluate``. Nothing is imported here,
so that ``import unimat_lib.diffraction`` loads only what it needs.
"""

__version__ = "0.1.0"
