"""Pictures of what there is, put together once for all who show or judge it: the CLI, the dashboard, services."""
