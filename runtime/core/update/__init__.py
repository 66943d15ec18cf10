"""Decisions about updates: what a bundle may do here, which version starts, and how one comes back."""
