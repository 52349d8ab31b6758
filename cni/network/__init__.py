"""From an assignment to the kernel: links, addresses, routes, rules and SNAT.

May import the allocator's values; `desired` is PURE, pyroute2 stays in `messages`.
"""
