"""Device management: its database, the programs' socket and their processes, and results on their way."""
