"""Where frameworks meet the library: the only package that imports any of them."""
