"""The workbench: pod churn replayed through the production allocator, in simulated time."""
