"""The elastic supernet: one set of parameters that holds every network of a space."""
