"""Salvage of a damaged messages.db: its readable part is copied into a fresh one."""
