"""How losses run, by the kind of their targets."""
