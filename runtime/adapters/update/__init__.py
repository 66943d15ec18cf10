"""Updates on disk: the bundle, its signature, the versions side by side or in two slots, and the journal."""
