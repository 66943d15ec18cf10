"""Adapters touch the world: one outside thing per file, no business decisions."""
