"""Memory tasks of this package and reimplementations of published ones, apart from the T-mazes and MiniGrid."""
