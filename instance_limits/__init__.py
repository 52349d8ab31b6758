"""EC2's limits per instance type, as data."""
