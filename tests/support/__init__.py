"""What tests share: a cloud, homes, processes, worlds for decisions, and the generated parts of the pages."""
