"""Fast convolution by small transforms: Winograd 1980; Lavin and Gray 2016."""
