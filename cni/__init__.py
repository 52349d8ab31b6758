"""The plugin and the daemon."""
