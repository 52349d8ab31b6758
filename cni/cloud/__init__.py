"""From an action to EC2: calls, and the recipes that order them.

`calls` and `recipes` are pure; performing calls with boto3 and reading metadata live in
modules of their own beside them. May import the allocator's values, and nothing else of ours.
"""
