"""Containers of one command each, their limits, and the way on which results leave them."""
