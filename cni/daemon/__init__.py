"""L-IPAMD, the node daemon: serves the plug-in and keeps the pool.

One event loop owns the allocator; boto3, netlink and disks are used in worker threads. May import
all of `cni` but `plugin`; `agent.py` alone builds.
"""
