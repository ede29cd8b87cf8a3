"""Other ways to choose n_v directions from the same per-sample gradients, to compare L3D with."""
