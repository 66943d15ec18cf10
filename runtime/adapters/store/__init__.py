"""messages.db: its one writer and its readers. With `salvage`, the importers of sqlite for it."""
