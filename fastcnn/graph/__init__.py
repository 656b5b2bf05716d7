"""Networks: graphs of layers, chains of them, and what they cost."""
