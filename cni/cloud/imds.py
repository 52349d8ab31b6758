"""The instance metadata (IMDSv2): the node's identity and the ENIs it shows."""
