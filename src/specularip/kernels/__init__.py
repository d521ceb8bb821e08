"""Shared by all kernels: compilation and threads (numba), launches (Triton), CUDA graphs, transfers."""
