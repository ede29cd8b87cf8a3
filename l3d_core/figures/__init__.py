"""One module per chapter: plot_<thing>(result) -> Figure, nothing else."""
