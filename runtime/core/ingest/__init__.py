"""Decisions on the way in: what a request says, what is kept of it, and what is answered."""
