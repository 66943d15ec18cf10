"""Decisions about what the cloud says to the device: twin, commands, methods, and who may take part.

Names: the worker is `management`, its settings stand in `[management]`, its database is
`state/management.db`, programs connect to `management.sock` in the home.
"""
