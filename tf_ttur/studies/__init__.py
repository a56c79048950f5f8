"""Studies: many runs, compared."""
