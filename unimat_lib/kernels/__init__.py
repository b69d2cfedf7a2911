"""The same sums as elsewhere, as Triton kernels for a GPU; imported only where there is one.

Constants in capitals say how a kernel is launched. They change no result, so they do not count in
the identity of the code (:mod:`unimat_lib.identity`): keep everything else out of capitals here.
"""
