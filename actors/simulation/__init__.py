"""Virtual sweeps: the real core under a virtual clock, in a world whose environments are known."""
