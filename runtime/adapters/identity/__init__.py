"""identity.db, the platform's API, and where tokens and keys are read from."""
