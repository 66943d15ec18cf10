"""What boots a kernel of its own, as a process: see README.md."""
