"""Decisions on the way out: what is sent next, what the hub's events mean, and what is settled."""
