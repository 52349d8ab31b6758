"""The frame between the plug-in and the daemon, and its version: plain functions on bytes. PURE."""
