"""The vector language and what is written in it for several families: the register tile, epilogues, copies."""
