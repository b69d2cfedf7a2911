"""A training in, the same training on all GPUs of a host out."""
