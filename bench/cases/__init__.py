"""What is measured: the kernels of each family, with their arrays and their right answers."""
