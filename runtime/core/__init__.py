"""Decisions, pure: no socket, disk, clock, randomness or logging comes in by import."""
