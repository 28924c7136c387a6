"""Comparisons of policies: which runs belong to one, their statistics and the report."""
