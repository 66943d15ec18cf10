"""What can be saved from a damaged messages.db."""
