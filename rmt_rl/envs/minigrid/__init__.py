"""The tasks on MiniGrid worlds."""
