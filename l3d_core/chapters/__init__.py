"""One module per chapter: what its notebook computes, as a plain record."""
