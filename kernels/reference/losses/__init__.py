"""The definitions of losses, by the kind of their targets."""
