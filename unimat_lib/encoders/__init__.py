"""One encoder per view: each returns one vector per crystal, ``Tensor[B, dim]``."""
