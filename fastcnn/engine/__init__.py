"""How networks run: graphs lowered to plans of kernel calls on one arena."""
