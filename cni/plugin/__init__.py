"""The CNI executable: a pipe to the daemon, in Python and in C."""
