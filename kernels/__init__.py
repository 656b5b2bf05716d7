"""Operations on raw arrays, in rooms with the same file and function names: reference and cpu."""
