"""Infrastructure of all kernels: numba (compilation, threads, SIMD), Triton launches, CUDA graphs, copies."""
