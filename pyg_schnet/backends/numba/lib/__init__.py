"""Building blocks of kernels: vectors, matrix products, softplus, threads, memory."""
