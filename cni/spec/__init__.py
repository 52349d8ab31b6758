"""The CNI specification as values: commands in, results and errors out; nothing of ours.

PURE: imports the standard library's data types only.
"""
