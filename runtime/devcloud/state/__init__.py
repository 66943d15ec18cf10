"""The stand-in's state, in one database."""
