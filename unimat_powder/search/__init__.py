"""A measured pattern and a library in, the crystals whose computed patterns agree with it out."""
