"""How pooling runs: windows over images."""
