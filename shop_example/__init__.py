"""A small shop whose orders, stock and payments can be called with the guard and without."""
