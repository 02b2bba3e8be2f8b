"""Coding agents: four CLIs behind one interface.

``adapters`` knows the CLIs, ``session`` runs one of them on a task, ``rate_limit`` tells when its account is exhausted.
Nothing here knows of sweeps, leases or verification.
"""
