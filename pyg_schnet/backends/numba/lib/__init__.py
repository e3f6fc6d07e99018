"""What kernels are made of: vectors, products of matrices, the softplus, threads, memory."""
