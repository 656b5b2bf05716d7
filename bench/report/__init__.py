"""Tables, comparisons and plots of what was measured."""
