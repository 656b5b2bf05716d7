"""PyTorch, the peer: in a process of its own."""
