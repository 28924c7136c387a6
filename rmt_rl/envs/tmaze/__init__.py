"""The T-mazes."""
