"""The honesty suite: projects whose tests pass by hand, which the verifier must therefore never refuse."""
