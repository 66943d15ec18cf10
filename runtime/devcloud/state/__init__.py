"""What the stand-in knows, in one database."""
