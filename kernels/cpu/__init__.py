"""The operations as Numba kernels: SIMD, threads, machine code kept on disk."""
