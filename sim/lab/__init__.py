"""The lab: `sim/vpc.py` behind an EC2 endpoint and a metadata service, nodes as namespaces.

Real time, real boto3 and real kernels, so that the unchanged daemon runs on one machine. Starts
the daemon as a process and imports nothing of it.
"""
