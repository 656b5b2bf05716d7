"""How convolutions run: the algorithms, and the choice between them."""
